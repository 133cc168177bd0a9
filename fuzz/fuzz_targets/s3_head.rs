//! What an S3 server said before it closed the connection: any bytes are a refusal or nothing, a head without its end is
//! nothing, and a refusal is read as it was written, in chunks or not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_bucket::s3::{early_answer, xml};
use pillion_fuzz::Dice;

fn check_any(heard: &[u8]) {
    let Some(answer) = early_answer(heard) else { return };
    assert!((300..1000).contains(&answer.status), "{}", answer.status);
    assert_eq!(answer.sent_md5, None);
    assert!(answer.body.is_empty() || heard.windows(answer.body.len()).any(|part| part == answer.body));
    let _ = xml::error(&answer.body);
    // More of the body changes nothing about the head, and a head that breaks off is none.
    let mut more = heard.to_vec();
    more.extend(b"\r\n<More/>");
    let again = early_answer(&more).expect("the head is the same");
    assert_eq!(again.status, answer.status);
    for name in ["content-type", "x-amz-bucket-region", "retry-after", "date"] {
        assert_eq!(again.header(name), answer.header(name));
    }
    let line = heard.iter().position(|byte| *byte == b'\n').expect("a head has lines");
    assert!(early_answer(&heard[..line]).is_none());
}

fn check_round_trip(mut dice: Dice<'_>) {
    let status = 300 + u16::from(dice.byte()) * 2;
    let is_chunked = dice.byte() & 1 == 0;
    let len = usize::from(dice.byte());
    let visible = |byte: &u8| char::from(b' ' + byte % 95);
    let value: String = dice.bytes(len).iter().map(visible).collect();
    let message = dice.text(usize::MAX);
    let document = format!("<Error><Code>Slow</Code><Message>{}</Message></Error>", xml::escaped(&message));
    let body = if is_chunked { format!("{:x}\r\n{document}\r\n0\r\n\r\n", document.len()) } else { document.clone() };
    let heard = format!("HTTP/1.1 {status} Reason here\r\nServer: x\r\nX-Amz-Bucket-Region: {value}\r\n\r\n{body}");
    let answer = early_answer(heard.as_bytes()).expect("an answer");
    assert_eq!((answer.status, answer.header("x-amz-bucket-region")), (status, value.trim()));
    assert_eq!(String::from_utf8_lossy(&answer.body), document);
    assert_eq!(xml::error(&answer.body).expect("an error").message, message.trim());
}

fuzz_target!(|data: &[u8]| {
    check_any(data);
    check_round_trip(Dice(data));
});
