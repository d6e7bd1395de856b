//! A client that says exactly what a test wants, right or wrong.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of the kit")]

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The client's end of a connection.
pub struct Client<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// One reply, all its lines.
    pub async fn reply(&mut self) -> String {
        let (mut all, mut line) = (String::new(), String::new());
        loop {
            let mut octet = [0];
            if self.0.read(&mut octet).await.unwrap_or(0) == 0 {
                assert!(line.is_empty(), "half a line: {line}");
                return all + "(closed)";
            }
            line.push(char::from(octet[0]));
            if line.ends_with("\r\n") {
                let last = line.as_bytes()[3] == b' ';
                all += &line;
                line.clear();
                if last {
                    return all;
                }
            }
        }
    }

    /// Reads a reply for each code and compares.
    pub async fn expect(&mut self, codes: &[&str]) {
        for code in codes {
            let reply = self.reply().await;
            assert!(reply.starts_with(code), "{code} expected: {reply}");
        }
    }

    pub async fn ask(&mut self, command: &str, code: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        let reply = self.reply().await;
        assert!(reply.starts_with(code), "{command}: {code} expected: {reply}");
        reply
    }

    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.0.read_to_end(&mut all).await;
        String::from_utf8(all).unwrap()
    }
}
