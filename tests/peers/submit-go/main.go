// Submits one message with net/smtp, as a program that logs in does.
//
// HOST PORT starttls|implicit CA MECHANISM USER PASSWORD FROM TO FILE
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/smtp"
	"os"
)

func submit(host, port, start, ca, mechanism, user, password, from, to, path string) error {
	message, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	trust := &tls.Config{RootCAs: roots, ServerName: host}
	address := net.JoinHostPort(host, port)

	var client *smtp.Client
	if start == "implicit" {
		connection, err := tls.Dial("tcp", address, trust)
		if err != nil {
			return err
		}
		client, err = smtp.NewClient(connection, host)
		if err != nil {
			return err
		}
		if err = client.Hello("client.test"); err != nil {
			return err
		}
	} else {
		client, err = smtp.Dial(address)
		if err != nil {
			return err
		}
		if err = client.Hello("client.test"); err != nil {
			return err
		}
		if err = client.StartTLS(trust); err != nil {
			return err
		}
	}
	defer client.Close()
	if mechanism != "PLAIN" {
		return fmt.Errorf("net/smtp has no %s", mechanism)
	}
	if err = client.Auth(smtp.PlainAuth("", user, password, host)); err != nil {
		return err
	}
	if err = client.Mail(from); err != nil {
		return err
	}
	if err = client.Rcpt(to); err != nil {
		return err
	}
	content, err := client.Data()
	if err != nil {
		return err
	}
	if _, err = content.Write(message); err != nil {
		return err
	}
	if err = content.Close(); err != nil {
		return err
	}
	return client.Quit()
}

func main() {
	a := os.Args[1:]
	if err := submit(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
