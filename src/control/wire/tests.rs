use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const KINDS: [FrameKind; 5] = [
    FrameKind::Connection,
    FrameKind::Metadata,
    FrameKind::Notify,
    FrameKind::Probe,
    FrameKind::Untyped,
];

fn decode_all(max: usize, mut bytes: &[u8]) -> std::result::Result<Option<Frame>, FrameError> {
    FrameDecoder::new(max).feed(&mut bytes)
}

/// A head that announces `len`, then `rest`.
fn raw(len: u64, rest: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes(), rest].concat()
}

/// `HandshakeFrameTest.ValidFrameRoundTrips`, and the bytes of a frame seen from upstream's wheel.
#[test]
fn frames_look_as_upstream_writes_them() {
    let frame = encode_frame(FrameKind::Probe, PROBE_REQUEST);
    assert_eq!(frame, raw(4, b"\x03{}\n"));
    assert_eq!(encode_frame(FrameKind::Metadata, &[b' '; 257])[..8], 259_u64.to_le_bytes());
    assert_eq!(encode_frame(FrameKind::Untyped, b"{}\n"), raw(3, b"{}\n"));
}

/// `OldProtocolFrameStillWorks`.
#[test]
fn a_frame_without_type_is_a_connection_of_old() {
    let frame = decode_all(64, &raw(2, b"{}")).unwrap().unwrap();
    assert_eq!(frame, Frame { kind: FrameKind::Untyped, body: b"{}".to_vec() });
}

/// `ValidTypedFrameWithTlsLikeNativeEndianLength`: 790 = 0x0316 begins like a TLS record.
#[test]
fn a_length_that_looks_like_tls_is_a_length() {
    let frame = encode_frame(FrameKind::Metadata, &[b' '; 788]);
    assert_eq!(frame[..2], [0x16, 0x03]);
    assert!(decode_all(1 << 20, &frame).unwrap().is_some());
}

/// `RejectsHttpProbe`, `RejectsTlsProbe`, `RejectsInvalidLength`.
#[test]
fn garbage_is_refused_by_name() {
    let max = 128 << 20;
    for (bytes, error) in [
        (raw(0, b""), FrameError::Empty),
        (raw(1 << 60, b""), FrameError::TooLong { len: 1 << 60, max }),
        (raw(max as u64 + 1, b""), FrameError::TooLong { len: max as u64 + 1, max }),
        (b"GET / HTTP/1.1\r\n".to_vec(), FrameError::Http),
        (b"OPTIONS * HTTP/1.1\r\n".to_vec(), FrameError::Http),
        (b"PRI * HTTP/2.0\r\n".to_vec(), FrameError::Http),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), FrameError::Tls),
        (raw(9, b"\x04"), FrameError::UnknownType(4)),
        (raw(9, b"\xfe"), FrameError::UnknownType(0xfe)),
        (raw(9, b"\xff"), FrameError::UnknownType(0xff)),
        (raw(9, b"["), FrameError::UnknownType(b'[')),
    ] {
        assert_eq!(decode_all(max, &bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_frame_of_just_a_type_has_an_empty_body() {
    let frame = decode_all(64, &raw(1, b"\x01")).unwrap().unwrap();
    assert_eq!(frame, Frame { kind: FrameKind::Metadata, body: Vec::new() });
}

/// I12: eight bytes must not buy sixteen megabytes.
#[test]
fn memory_follows_what_came_and_not_what_was_announced() {
    let max = 16 << 20;
    let mut decoder = FrameDecoder::new(max);
    assert!(decoder.is_idle());
    assert_eq!(decoder.feed(&mut &*raw(max as u64, b"\x01{")), Ok(None));
    assert!(!decoder.is_idle());
    assert!(decoder.held_bytes() <= 64);
    let mut received = 1;
    for _ in 0..100 {
        assert_eq!(decoder.feed(&mut &[b' '; 5000][..]), Ok(None));
        received += 5000;
        assert!(decoder.held_bytes() <= received + received / 4 + 5000, "{received}");
    }
}

#[test]
fn json_is_told_from_other_text() {
    for good in ["{}", " {\"a\":[1,{\"b\":null}]}\n", "{\"a\":\"\\u0000\"}", "null\n", "[]"] {
        assert!(is_json(good.as_bytes()), "{good}");
    }
    for bad in ["", "[", "nul", "{", "{}{}", "{\"a\":}", "\0"] {
        assert!(!is_json(bad.as_bytes()), "{bad}");
    }
}

fn notify(name: &[u8], message: &[u8], origin: Option<NotifyOrigin>) -> Notify {
    Notify { name: name.to_vec(), message: message.to_vec(), origin }
}

#[test]
fn notify_has_upstreams_keys_and_ours_beside_them() {
    assert_eq!(notify(b"a", b"m\n", None).encode(), br#"{"name":"a","notify_msg":"m\n"}"#);
    let origin = Some(NotifyOrigin { from: Incarnation(7), seq: 9 });
    let text = String::from_utf8(notify(b"a", b"\xff\0", origin).encode()).unwrap();
    assert_eq!(
        text,
        concat!(
            "{\"name\":\"a\",\"notify_msg\":\"\u{fffd}\\u0000\",",
            r#""tent":{"from":"00000000000000000000000000000007","msg_hex":"ff00","seq":9}}"#
        )
    );
}

#[test]
fn notify_from_upstream_may_hold_raw_bytes_and_unknown_keys() {
    let got = Notify::decode(b"{\"x\":[{}],\"notify_msg\":\"a\xffb\",\"name\":null}\n").unwrap();
    assert_eq!(got, notify(b"", b"a\xffb", None));
}

#[test]
fn broken_notifies_are_malformed() {
    for bad in [
        &b"{}"[..],
        b"",
        b"[\"a\",\"b\"]",
        b"{\"name\":\"a\"}",
        b"{\"name\":1,\"notify_msg\":\"m\"}",
        b"{\"notify_msg\":\"m\",\"tent\":{}}",
        b"{\"notify_msg\":\"m\",\"tent\":{\"from\":\"7\",\"seq\":1}}",
        b"{\"notify_msg\":\"m\",\"tent\":{\"from\":\"00000000000000000000000000000007\",\"seq\":1,\"msg_hex\":\"0\"}}",
        b"{\"notify_msg\":\"m\",\"tent\":{\"from\":\"00000000000000000000000000000007\",\"seq\":1,\"msg_hex\":\"+1\"}}",
    ] {
        let error = Notify::decode(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn replies_tell_success_refusal_and_nonsense_apart() {
    check_notify_reply(notify_reply(true)).unwrap();
    let kind = |r: Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(check_notify_reply(notify_reply(false))), ErrorKind::Rejected);
    assert_eq!(kind(check_notify_reply(b"{}")), ErrorKind::Rejected);
    assert_eq!(kind(check_notify_reply(b"ok")), ErrorKind::Malformed);
    check_probe_reply(PROBE_REPLY).unwrap();
    assert_eq!(kind(check_probe_reply(b"{\"status\":\"dying\"}")), ErrorKind::Rejected);
    assert_eq!(kind(check_probe_reply(b"{}")), ErrorKind::Malformed);
    assert!(is_json(CONNECTION_REPLY));
}

proptest! {
    #[test]
    fn frames_survive_any_cut(
        bodies in vec((0_usize..4, vec(any::<u8>(), 0..200)), 1..5),
        cuts in vec(1_usize..50, 1..40),
    ) {
        let frames: Vec<_> =
            bodies.into_iter().map(|(kind, body)| Frame { kind: KINDS[kind], body }).collect();
        let stream: Vec<u8> =
            frames.iter().flat_map(|f| encode_frame(f.kind, &f.body)).collect();
        let (mut decoder, mut rest, mut got) = (FrameDecoder::new(1 << 20), &*stream, Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        while !rest.is_empty() {
            let mut chunk = take(&mut rest, cuts.next().unwrap());
            while let Some(frame) = decoder.feed(&mut chunk).unwrap() {
                got.push(frame);
            }
        }
        prop_assert!(decoder.is_idle());
        prop_assert_eq!(got.len(), frames.len());
        for (got, sent) in got.into_iter().zip(frames) {
            prop_assert_eq!(got.kind, sent.kind);
            prop_assert_eq!(got.body.strip_suffix(b"\n").unwrap(), sent.body.strip_suffix(b"\n").unwrap_or(&sent.body));
        }
    }

    #[test]
    fn arbitrary_bytes_give_frames_or_errors(bytes in vec(any::<u8>(), 0..300), small in any::<bool>()) {
        let mut bytes = bytes;
        if small && bytes.len() >= 8 {
            bytes[1..8].fill(0);
        }
        let (mut decoder, mut rest) = (FrameDecoder::new(200), &*bytes);
        while !rest.is_empty() {
            match decoder.feed(&mut rest) {
                Ok(Some(frame)) => prop_assert!(frame.body.len() <= 200),
                Ok(None) => prop_assert!(rest.is_empty()),
                Err(_) => break,
            }
            prop_assert!(decoder.held_bytes() <= bytes.len() * 5 / 4);
        }
    }

    #[test]
    fn any_bytes_travel_in_a_notify(
        name in vec(any::<u8>(), 0..50),
        message in vec(any::<u8>(), 0..50),
        from in any::<u128>(),
        seq in any::<u64>(),
    ) {
        let sent = notify(&name, &message, Some(NotifyOrigin { from: Incarnation(from), seq }));
        prop_assert_eq!(Notify::decode(&sent.encode()).unwrap(), sent);
    }

    #[test]
    fn arbitrary_bytes_are_a_notify_or_an_error(bytes in vec(any::<u8>(), 0..100)) {
        let _ = Notify::decode(&bytes);
        let _ = check_notify_reply(&bytes);
        let _ = check_probe_reply(&bytes);
        let _ = is_json(&bytes);
    }
}
