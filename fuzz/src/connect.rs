//! The CONNECT front: no bytes, however cut, make it panic, keep more than its limit, or answer anything but one printable line.
use proto_core::Instant;
use proto_core::connect::{Connect, Limits, Step};

const LIMITS: Limits = Limits {
    header_bytes_max: 512,
    header_timeout: core::time::Duration::from_secs(10),
};

/// The first byte says where the others are cut.
pub fn check(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = outcome(&mut [bytes].into_iter());
    assert_eq!(whole, outcome(&mut [first, second].into_iter()));
    assert_eq!(whole, outcome(&mut bytes.chunks(1)));
}

#[derive(PartialEq, Debug)]
enum Outcome {
    More,
    /// Everything but the early data, which depends on the cut, and that together with what wasn't taken.
    Request(String, Vec<u8>),
    Refused(u16, Vec<u8>),
}

fn outcome(pieces: &mut dyn Iterator<Item = &[u8]>) -> Outcome {
    let mut connect = Connect::new(LIMITS, Instant::ZERO);
    let mut taken = 0;
    while let Some(piece) = pieces.next() {
        taken += piece.len();
        match connect.handle_bytes(piece) {
            Step::More(more) => connect = more,
            Step::Request(mut request) => {
                let mut early = core::mem::take(&mut request.early).to_vec();
                assert!(
                    taken - early.len() <= LIMITS.header_bytes_max,
                    "a header over the limit"
                );
                assert!(request.port != 0 && !request.host.is_empty());
                pieces.for_each(|later| early.extend_from_slice(later));
                return Outcome::Request(format!("{request:?}"), early);
            }
            Step::Refuse(reply) => {
                let status = reply.status();
                assert!((400..600).contains(&status));
                let text = reply.into_bytes();
                assert!(
                    text.iter()
                        .all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n'))
                );
                return Outcome::Refused(status, text.to_vec());
            }
        }
    }
    assert!(
        taken <= LIMITS.header_bytes_max,
        "more is kept than the limit"
    );
    Outcome::More
}
