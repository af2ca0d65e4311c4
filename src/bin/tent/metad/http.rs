//! As much of HTTP/1.1 as clients of a metadata store speak: a request in, an answer out. No decisions
//! about keys here.

use std::io::{self, BufRead, Read, Write};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// The value of `key` in the query, decoded.
    pub(super) key: String,
    pub(super) body: Vec<u8>,
    /// Whether the connection stays open afterwards.
    pub(super) keep: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection ended, or was idle for too long.
    Gone,
    /// To be told to the client, with this status; the connection ends.
    Bad(u16, &'static str),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads one request. Before a body that a client holds back (`Expect`) it tells it to go on.
pub(super) fn read(from: &mut impl BufRead, back: &mut impl Write) -> Result<Request, Fault> {
    let mut room = MAX_HEAD;
    let first = line(from, &mut room)?.ok_or(Fault::Gone)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Fault::Bad(400, "not a request line"));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(Fault::Bad(505, "HTTP/1.1 is spoken here"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        key: key_of(query).ok_or(Fault::Bad(400, "the query is not percent-encoded UTF-8"))?,
        body: Vec::new(),
        keep: version != "HTTP/1.0",
    };
    let (mut len, mut chunked, mut held_back) = (0, false, false);
    loop {
        let header = line(from, &mut room)?.ok_or(Fault::Gone)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or(Fault::Bad(400, "not a header"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                len = value.parse().map_err(|_| Fault::Bad(400, "Content-Length is no number"))?;
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" if value.eq_ignore_ascii_case("close") => request.keep = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.keep = true,
            "expect" => held_back = value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
    if len > MAX_BODY {
        return Err(Fault::Bad(413, "the value is too large"));
    }
    if held_back {
        back.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if chunked {
        request.body = chunks(from)?;
    } else {
        request.body = exactly(from, len)?;
    }
    Ok(request)
}

/// Writes an answer; `body` is there even where it only says what the status means, as upstream's server
/// does it.
pub(super) fn answer(to: &mut impl Write, status: u16, body: &[u8], keep: bool) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    };
    let connection = if keep { "keep-alive" } else { "close" };
    let mut bytes = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    to.write_all(&bytes)
}

/// A line without its end; `None` where the connection ended before it.
fn line(from: &mut impl BufRead, room: &mut usize) -> Result<Option<String>, Fault> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(*room).unwrap_or(u64::MAX);
    from.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
    *room -= bytes.len();
    match bytes.strip_suffix(b"\n") {
        None if bytes.is_empty() && *room > 0 => Ok(None),
        None if *room == 0 => Err(Fault::Bad(400, "the head of the request is too long")),
        None => Err(Fault::Gone),
        Some(text) => {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = std::str::from_utf8(text).map_err(|_| Fault::Bad(400, "not UTF-8"))?;
            Ok(Some(text.to_owned()))
        }
    }
}

fn exactly(from: &mut impl BufRead, len: usize) -> Result<Vec<u8>, Fault> {
    // grown as it comes: a length alone must not cost memory
    let mut body = Vec::new();
    from.by_ref().take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut body)?;
    if body.len() == len { Ok(body) } else { Err(Fault::Gone) }
}

fn chunks(from: &mut impl BufRead) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        let head = line(from, &mut 1024)?.ok_or(Fault::Gone)?;
        let digits = head.split(';').next().unwrap_or_default().trim();
        let len = usize::from_str_radix(digits, 16)
            .map_err(|_| Fault::Bad(400, "a chunk without a length"))?;
        if len > MAX_BODY - body.len() {
            return Err(Fault::Bad(413, "the value is too large"));
        }
        if len == 0 {
            // trailers, up to an empty line
            let mut room = MAX_HEAD;
            while line(from, &mut room)?.is_some_and(|l| !l.is_empty()) {}
            return Ok(body);
        }
        body.extend(exactly(from, len)?);
        if line(from, &mut 1024)?.is_none_or(|l| !l.is_empty()) {
            return Err(Fault::Bad(400, "a chunk without an end"));
        }
    }
}

/// The value of `key`, `%XX` and `+` decoded, without spaces around it, as upstream's server reads it.
fn key_of(query: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("key=")).unwrap_or("");
    let (mut bytes, mut rest) = (Vec::new(), raw.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
                if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &tail[2..];
            }
            other => bytes.push(other),
        }
    }
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

/// Request line and headers, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// The largest value, in bytes.
pub(super) const MAX_BODY: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &[u8]) -> Result<Request, Fault> {
        read(&mut &*text, &mut Vec::new())
    }

    #[test]
    fn requests_of_real_clients() {
        let put = parse(
            b"PUT /metadata?key=mooncake%2Fram%2Fa%3A1 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
              Content-Length: 2\r\n\r\n{}GET",
        )
        .unwrap();
        let wanted = Request {
            method: "PUT".into(),
            path: "/metadata".into(),
            key: "mooncake/ram/a:1".into(),
            body: b"{}".to_vec(),
            keep: true,
        };
        assert_eq!(put, wanted);
        let get = parse(b"GET /metadata?x=1&key=a+b HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((&*get.key, get.keep), ("a b", false));
        let chunked = parse(
            b"PUT /m?key=k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, b"abcd");
        let mut back = Vec::new();
        let held = b"PUT /m?key=k HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read(&mut &held[..], &mut back).unwrap().body, b"x");
        assert_eq!(back, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, status) in [
            (&b"hello\r\n\r\n"[..], 400),
            (b"GET /m HTTP/2\r\n\r\n", 505),
            (b"GET /m?key=%zz HTTP/1.1\r\n\r\n", 400),
            (b"GET /m?key=%+1 HTTP/1.1\r\n\r\n", 400),
            (b"GET /m?key=%ff HTTP/1.1\r\n\r\n", 400),
            (b"PUT /m?key=a HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            (b"PUT /m?key=a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"PUT /m?key=a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(matches!(fault, Fault::Bad(s, _) if s == status), "{text:?}: {fault:?}");
        }
        let long = [b"GET /".as_slice(), &[b'x'; MAX_HEAD]].concat();
        assert!(matches!(parse(&long), Err(Fault::Bad(400, _))));
        assert!(matches!(
            parse(b"PUT /m?key=a HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"),
            Err(Fault::Gone)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_query_is_read_or_refused(query in "[a-z%+=&0-9]{0,40}") {
            let _ = key_of(&query);
        }
    }
}
