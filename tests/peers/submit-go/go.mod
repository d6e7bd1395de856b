module submit

go 1.19
