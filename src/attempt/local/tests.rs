use super::*;
use crate::clock::SystemClock;
use crate::message::ReadBody;
use crate::smtp::address::ReversePath;

fn item(to: &[&str]) -> LocalItem {
    let recipients = to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect();
    let mail = Mail::new(ReversePath::parse("s@a.test").unwrap());
    let id = MessageId::from_octets([7; 16]);
    LocalItem::new(id, mail, recipients, Domain::parse("b.test").unwrap(), Timestamp::default())
}

fn maildir() -> (tempfile::TempDir, Maildir) {
    let folder = tempfile::tempdir().unwrap();
    let maildir = Maildir::open(folder.path(), Arc::new(SystemClock)).unwrap();
    (folder, maildir)
}

fn read(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    files.sort();
    files
}

fn delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered(accepted) if accepted.host.is_none())
}

struct Broken(Vec<io::Result<Bytes>>);

impl ReadBody for Broken {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        let next = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
        Box::pin(async { next.transpose() })
    }
}

#[tokio::test]
async fn each_recipient_gets_a_copy_of_its_own() {
    let (folder, maildir) = maildir();
    let content = Content::Whole(Bytes::from_static(b"Subject: x\r\n\r\nHello\r\n"));
    let outcomes = maildir.deliver(&item(&["one@b.test", "postmaster"]), content).await;
    assert!(outcomes.len() == 2 && outcomes.iter().all(delivered), "{outcomes:?}");
    let text = "Subject: x\n\nHello\n";
    assert_eq!(
        read(&folder.path().join("new")),
        [
            format!("Return-Path: <s@a.test>\nDelivered-To: one@b.test\n{text}"),
            format!("Return-Path: <s@a.test>\nDelivered-To: postmaster@b.test\n{text}"),
        ]
    );
    assert!(read(&folder.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn file_names_hold_nothing_a_sender_chose() {
    let (folder, maildir) = maildir();
    let content = Content::Whole(Bytes::from_static(b"x\r\n"));
    let outcomes = maildir.deliver(&item(&["\"../../etc/passwd\"@b.test"]), content).await;
    assert!(delivered(&outcomes[0]));
    let name = std::fs::read_dir(folder.path().join("new")).unwrap().next().unwrap().unwrap().file_name();
    assert!(!name.to_str().unwrap().contains("passwd"));
}

#[tokio::test]
async fn content_cut_short_is_not_delivered() {
    for chunks in [
        vec![Ok(Bytes::from_static(b"Subject")), Err(io::ErrorKind::Other.into())],
        vec![Ok(Bytes::from_static(b"Subject"))],
    ] {
        let (folder, maildir) = maildir();
        let content = Content::Stream { size: 100, reader: Box::new(Broken(chunks)) };
        let outcomes = maildir.deliver(&item(&["r@b.test"]), content).await;
        assert_eq!(outcomes, [Outcome::Deferred(Cause::Local(LocalFault::Storage))]);
        assert!(read(&folder.path().join("new")).is_empty() && read(&folder.path().join("tmp")).is_empty());
    }
}

#[tokio::test]
async fn a_store_that_is_gone_defers() {
    let (folder, maildir) = maildir();
    std::fs::remove_dir_all(folder.path().join("tmp")).unwrap();
    let outcomes = maildir.deliver(&item(&["r@b.test"]), Content::Whole(Bytes::from_static(b"x"))).await;
    assert_eq!(outcomes, [Outcome::Deferred(Cause::Local(LocalFault::Storage))]);
}

#[test]
fn line_ends_become_lf_however_the_content_is_cut() {
    let content = b"a\r\n\r\nb\rc\n\r\r\n\r";
    for first in 0..=content.len() {
        for second in first..=content.len() {
            let (mut ends, mut out) = (LineEnds::default(), BytesMut::new());
            for piece in [&content[..first], &content[first..second], &content[second..]] {
                ends.convert(piece, &mut out);
            }
            out.extend_from_slice(ends.end());
            assert_eq!(&out[..], b"a\n\nb\rc\n\r\n\r", "{first} {second}");
        }
    }
}
