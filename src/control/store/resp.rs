//! The part of redis' protocol RESP2 that GET, SET, DEL, AUTH and SELECT need: commands out, answers in.

use super::MAX_VALUE;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK`.
    Simple(String),
    /// `-ERR …`.
    Error(String),
    /// `:1`.
    Number(i64),
    /// Bytes; `None` for a key that is not there.
    Bulk(Option<Vec<u8>>),
}

/// A command as the server reads it: a list of byte strings.
pub(super) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The answer at the start of `bytes` and its length; `None` if it is not all there yet.
///
/// # Errors
/// Why this is no answer to such a command.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|b| *b == b'\n') else {
        return if bytes.len() >= MAX_LINE {
            Err("a line without an end".into())
        } else {
            Ok(None)
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("a line that does not end in CR LF")?;
    let (kind, text) = line.split_first().ok_or("an empty line")?;
    let text = String::from_utf8_lossy(text);
    let number = || text.parse::<i64>().map_err(|_| format!("{text:?} where a number belongs"));
    let after = end + 1;
    let reply = match kind {
        b'+' => Reply::Simple(text.into_owned()),
        b'-' => Reply::Error(text.into_owned()),
        b':' => Reply::Number(number()?),
        b'$' => match number()? {
            -1 => Reply::Bulk(None),
            len => {
                let len = usize::try_from(len).map_err(|_| format!("a value of length {len}"))?;
                if len > MAX_VALUE {
                    return Err(format!("a value of {len} bytes; {MAX_VALUE} are taken"));
                }
                let Some(body) = bytes.get(after..after + len + 2) else { return Ok(None) };
                let value = body.strip_suffix(b"\r\n").ok_or("a value without an end")?;
                return Ok(Some((Reply::Bulk(Some(value.to_vec())), after + len + 2)));
            }
        },
        _ => {
            return Err(format!(
                "{:?}, which is not redis' protocol",
                String::from_utf8_lossy(line)
            ));
        }
    };
    Ok(Some((reply, after)))
}

/// The longest line taken, in bytes.
const MAX_LINE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn commands_are_lists_of_strings() {
        assert_eq!(encode(&[b"GET", b"a\r\nb"]), b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
    }

    #[test]
    fn answers_are_read() {
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Simple("OK".into())),
            (b"-WRONGPASS no\r\n", Reply::Error("WRONGPASS no".into())),
            (b":-7\r\n", Reply::Number(-7)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(vec![]))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb".to_vec()))),
        ] {
            assert_eq!(decode(bytes), Ok(Some((reply, bytes.len()))));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b":x\r\n",
            b"$-2\r\n",
            b"*1\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc",
            b"$9223372036854775807\r\n",
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert!(decode(&[b'+'; MAX_LINE]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, used))) = decode(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }

        #[test]
        fn a_value_is_read_whole_or_not_yet(value in vec(any::<u8>(), 0..200), cut in 0_usize..210) {
            let mut bytes = format!("${}\r\n", value.len()).into_bytes();
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(b"\r\n");
            let cut = cut.min(bytes.len());
            let whole = Some((Reply::Bulk(Some(value)), bytes.len()));
            let wanted = if cut == bytes.len() { whole } else { None };
            prop_assert_eq!(decode(&bytes[..cut]), Ok(wanted));
        }
    }
}
