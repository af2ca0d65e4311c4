//! The description of a segment as a blob that travels by whatever way the application has, instead of by the
//! RPC port: `TENTSEG`, version, length, checksum, and the JSON that a peer would have been answered.

use crate::control::wire;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SegmentId;
use crate::time;

impl Engine {
    /// The description of an open segment, or of this engine, for [`Engine::import_segment`] elsewhere. It
    /// goes stale as any description does: a range that it does not hold is asked for when it is used.
    ///
    /// # Errors
    /// `InvalidArgument`: no such segment is open.
    pub fn export_segment(&self, id: SegmentId) -> Result<Vec<u8>> {
        self.core.check()?;
        let json = if id == SegmentId::LOCAL {
            (*self.core.own.json(true)).clone()
        } else {
            wire::encode_desc(&self.core.directory.peer(id)?.desc(), &time::timestamp())
        };
        pack(&json)
    }

    /// Opens the segment that a blob describes, without asking its RPC port first. The same name gives the
    /// same id as [`Engine::open_segment`]; what is known of an open one stays.
    ///
    /// # Errors
    /// `Malformed`: no blob, another version, cut, changed, or what is in it makes no sense.
    pub fn import_segment(&self, blob: &[u8]) -> Result<SegmentId> {
        self.core.check()?;
        let desc = wire::decode_desc(unpack(blob)?)
            .map_err(|e| Error::new(e.kind(), format!("the exported segment: {e}")))?;
        self.core.directory.import(desc)
    }
}

fn pack(json: &[u8]) -> Result<Vec<u8>> {
    let len = u32::try_from(json.len()).ok().filter(|len| *len <= MAX_JSON);
    let len = len.ok_or_else(|| malformed("longer than 64 MiB: too many buffers"))?;
    let mut blob = Vec::with_capacity(HEAD + json.len());
    blob.extend(MAGIC);
    blob.extend(VERSION.to_le_bytes());
    blob.extend(len.to_le_bytes());
    blob.extend(checksum(json).to_le_bytes());
    blob.extend(json);
    Ok(blob)
}

fn unpack(blob: &[u8]) -> Result<&[u8]> {
    if !blob.starts_with(&MAGIC) {
        return Err(malformed("it does not begin as one"));
    }
    let word = |at: usize| blob.get(at..at + 4).and_then(|b| b.try_into().ok());
    let word = |at| word(at).map(u32::from_le_bytes).ok_or_else(|| malformed("it is cut short"));
    let (version, len) = (word(8)?, word(12)?);
    if version != VERSION {
        let why = format!("it has version {version}, and this library reads {VERSION}");
        return Err(malformed(&why));
    }
    let sum = u64::from(word(16)?) | u64::from(word(20)?) << 32;
    let json = &blob[HEAD..];
    if len > MAX_JSON || json.len() != len as usize {
        let why = format!("it says {len} bytes and has {}: was it cut?", json.len());
        return Err(malformed(&why));
    }
    if checksum(json) != sum {
        return Err(malformed("its checksum is wrong: it was changed on its way"));
    }
    Ok(json)
}

/// FNV-1a: against accidents, not against forgers, who could describe any segment anyway.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::Malformed, format!("this is no exported segment: {why}"))
}

const MAGIC: [u8; 8] = *b"TENTSEG\0";
const VERSION: u32 = 1;
const HEAD: usize = 24;
/// Longest description, in bytes; as long as an answer of the RPC port may be.
const MAX_JSON: u32 = 64 << 20;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_change_is_noticed() {
        let blob = pack(b"{\"name\":\"x\"}").unwrap();
        assert_eq!(unpack(&blob).unwrap(), b"{\"name\":\"x\"}");
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 0x10;
            assert!(unpack(&changed).is_err(), "byte {at}");
            assert!(unpack(&blob[..at]).is_err(), "cut at {at}");
        }
        assert!(unpack(&[blob.as_slice(), b" "].concat()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = unpack(&bytes);
            let _ = unpack(&[&MAGIC, bytes.as_slice()].concat());
        }
    }
}
