//! Frames of HTTP/2, made by hand: no client library floods.

/// What a client says first, and its settings.
pub fn greeting() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// `POST /` on a stream, and its end at once (RST_STREAM, CANCEL).
pub fn reset_request(stream: u32) -> Vec<u8> {
    // Indexed: `:method: POST`, `:scheme: http`, `:path: /`; literal: `:authority: x`.
    let head = [0x83, 0x86, 0x84, 0x41, 0x01, b'x'];
    let end_headers = 0x4;
    let mut bytes = frame(1, end_headers, stream, &head);
    bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are small");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
