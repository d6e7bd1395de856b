//! What an engine's own connections come to be counted as.
