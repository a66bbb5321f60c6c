//! Datagrams in a stream of bytes: each behind its length, two bytes, the higher one first (RFC 4571).
//!
//! The pod's streams keep no borders; `vm:connect udp PORT --framed` speaks the same.

use hyper::body::Bytes;

/// Bytes of a length.
const LENGTH: usize = 2;

/// Datagrams of which the bytes come in pieces.
#[derive(Default)]
pub(super) struct Datagrams(Vec<u8>);

impl Datagrams {
    /// More bytes of the stream.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next datagram that is complete.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let length = self.0.first_chunk::<LENGTH>()?;
        let end = LENGTH + usize::from(u16::from_be_bytes(*length));
        let datagram = Bytes::copy_from_slice(self.0.get(LENGTH..end)?);
        self.0.drain(..end);
        Some(datagram)
    }
}

/// `datagram` behind its length; nothing if it is too long for one.
pub(super) fn framed(datagram: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(datagram.len()).ok()?;
    Some([&length.to_be_bytes(), datagram].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_keep_their_borders_however_the_stream_is_cut() {
        let sent: [&[u8]; 4] = [b"one", b"", &[7; 65535], b"four"];
        let stream: Vec<u8> = sent
            .iter()
            .flat_map(|datagram| framed(datagram).unwrap())
            .collect();
        for step in [1, 2, 3, 1000, stream.len()] {
            let mut datagrams = Datagrams::default();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                datagrams.add(piece);
                while let Some(datagram) = datagrams.next() {
                    got.push(datagram.to_vec());
                }
            }
            assert_eq!(got, sent, "in steps of {step}");
        }
        assert_eq!(framed(&[0; 65536]), None);
    }
}
