//! What the fuzz target of the converter calls.

use postroad::message::body::{has_long_line, is_clean_crlf, is_seven_bit};
use postroad::message::convert::{MAX_PARTS, has_eight_bit_header, to_seven_bit};

/// Any octets as a message: what comes out is seven-bit and stays so, and is not much larger.
pub fn conversion(data: &[u8]) {
    let needs_utf8 = has_eight_bit_header(data);
    let clean = |octets: &[u8]| is_seven_bit(octets) && is_clean_crlf(octets) && !octets.contains(&0);
    match to_seven_bit(data) {
        Ok(out) => {
            assert!(clean(&out), "not seven-bit");
            assert!(!clean(data) || out == data, "changed without need");
            assert!(has_long_line(data) || !has_long_line(&out), "a long line was made");
            assert!(out.len() <= data.len() * 16 / 5 + 200 * (MAX_PARTS + 1), "grown beyond measure");
            assert_eq!(to_seven_bit(&out).expect("is clean"), out, "converted twice");
        }
        Err(_) => assert!(!clean(data), "refused without need"),
    }
    assert!(!needs_utf8 || !is_seven_bit(data));
}
