//! Datagrams in a stream of bytes, which keeps no borders: each behind its length, two bytes, the higher
//! one first (RFC 4571). `vm:connect udp PORT --framed` and the subresource API speak so.

/// Bytes of a length.
const LENGTH: usize = 2;

/// Datagrams of which the bytes come in pieces.
#[derive(Debug, Default)]
pub struct Datagrams(Vec<u8>);

impl Datagrams {
    /// More bytes of the stream.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next datagram that is complete.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let length = self.0.first_chunk::<LENGTH>()?;
        let end = LENGTH + usize::from(u16::from_be_bytes(*length));
        let datagram = self.0.get(LENGTH..end)?.to_vec();
        self.0.drain(..end);
        Some(datagram)
    }
}

/// `datagram` behind its length; nothing if it is too long for one.
pub fn framed(datagram: &[u8]) -> Option<Vec<u8>> {
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
            let mut all = Datagrams::default();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                all.add(piece);
                while let Some(datagram) = all.pop() {
                    got.push(datagram);
                }
            }
            assert_eq!(got, sent, "in steps of {step}");
        }
        assert_eq!(framed(&[0; 65536]), None);
    }
}
