//! The provider's side: audio deltas cut out of server events, appends built around the base64.

use base64_simd::{Out, STANDARD};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;

const HEAD: &[u8] = b"{\"type\":\"input_audio_buffer.append\",\"audio\":\"";
const TAIL: &[u8] = b"\"}";
const DELTAS: [&str; 2] = ["response.output_audio.delta", "response.audio.delta"];
const MOST: u64 = i32::MAX as u64;

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    delta: &'a str,
    #[serde(borrow, default)]
    response_id: Option<&'a str>,
    #[serde(borrow, default)]
    item_id: Option<&'a str>,
    #[serde(default)]
    content_index: Option<u64>,
}

type Chunk<'py> = (Bound<'py, PyBytes>, &'py str, &'py str, u64);

/// Audio and ids of an audio delta in whole samples; None for every other frame, and for a wrong one.
///
/// The whole frame is checked to be JSON. Escapes in the ids, duplicate names and lone surrogates are
/// left to the reference.
#[pyfunction]
pub fn cut_delta<'py>(
    py: Python<'py>,
    frame: &'py [u8],
    sample_bytes: usize,
) -> Option<Chunk<'py>> {
    let event: Delta<'py> = serde_json::from_slice(frame).ok()?;
    let index = event.content_index.unwrap_or(0);
    if !DELTAS.contains(&event.kind) || index > MOST {
        return None;
    }
    let text = event.delta.as_bytes();
    let size = STANDARD.decoded_length(text).ok()?;
    if size % sample_bytes != 0 {
        return None;
    }
    let audio = PyBytes::new_with(py, size, |out| {
        STANDARD
            .decode(text, Out::from_slice(out))
            .map(|_| ())
            .map_err(|_| pyo3::exceptions::PyValueError::new_err("not base64"))
    })
    .ok()?;
    Some((
        audio,
        event.response_id.unwrap_or(""),
        event.item_id.unwrap_or(""),
        index,
    ))
}

pub fn append_size(audio: usize) -> usize {
    HEAD.len() + STANDARD.encoded_length(audio) + TAIL.len()
}

/// `out` has exactly `append_size` bytes.
pub fn write_append(audio: &[u8], out: &mut [u8]) {
    let end = out.len() - TAIL.len();
    out[..HEAD.len()].copy_from_slice(HEAD);
    let _ = STANDARD.encode(audio, Out::from_slice(&mut out[HEAD.len()..end]));
    out[end..].copy_from_slice(TAIL);
}

/// The UTF-8 JSON of an `input_audio_buffer.append`.
#[pyfunction]
pub fn append<'py>(py: Python<'py>, audio: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, append_size(audio.len()), |out| {
        write_append(audio, out);
        Ok(())
    })
}

/// The same as a masked WebSocket text frame, ready for the socket. For appends of less than 64 KiB.
#[pyfunction]
pub fn append_frame<'py>(
    py: Python<'py>,
    audio: &[u8],
    mask: u32,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = append_size(audio.len());
    if !(126..=65535).contains(&size) {
        return Err(pyo3::exceptions::PyValueError::new_err(
            "append of an unusual size",
        ));
    }
    PyBytes::new_with(py, 8 + size, |out| {
        let key = mask.to_ne_bytes();
        out[0] = 0x81;
        out[1] = 0x80 | 126;
        out[2..4].copy_from_slice(&(size as u16).to_be_bytes());
        out[4..8].copy_from_slice(&key);
        let body = &mut out[8..];
        write_append(audio, body);
        let wide = u64::from_ne_bytes([
            key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
        ]);
        let mut words = body.chunks_exact_mut(8);
        for word in &mut words {
            let plain = u64::from_ne_bytes((&*word).try_into().unwrap());
            word.copy_from_slice(&(plain ^ wide).to_ne_bytes());
        }
        for (i, byte) in words.into_remainder().iter_mut().enumerate() {
            *byte ^= key[i & 3];
        }
        Ok(())
    })
}
