//! Agent audio of the sessions of one stream: queue, playout clock, what was sent, entries of what is due.

use std::collections::{BTreeMap, VecDeque};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::wire::{number, number_size, varint, varint_size};

const FRAME_MS: f64 = 20.0;
const FRAME_SECONDS: f64 = 0.02;
const CATCH_UP_SECONDS: f64 = 0.2;
const EARLY: f64 = 1e-6;

struct Part {
    item: String,
    index: u64,
    epoch: u64,
    chunks: VecDeque<PyBackedBytes>,
    at: usize,
    left: usize,
    position: f64,
    received: f64,
    sent: f64,
    done: bool,
}

/// As the ledger's: `start` in seconds, the rest in milliseconds. `part` counts the session's parts.
struct Segment {
    part: u64,
    start: f64,
    position: f64,
    length: f64,
}

struct Speaker {
    frame: usize,
    bytes_per_ms: f64,
    buffer: f64,
    parts: VecDeque<Part>,
    first: u64,
    segments: Vec<Segment>,
    due: Option<f64>,
    sequence: u64,
    told: Option<String>,
}

impl Speaker {
    /// As PlayoutLedger.sent.
    fn sent(&mut self, now: f64) {
        let part = &mut self.parts[0];
        part.sent = (part.position + FRAME_MS).min(part.received);
        let mut start = now + self.buffer;
        if let Some(last) = self.segments.last_mut() {
            let end = last.start + last.length / 1000.0;
            if end >= start - 0.005 {
                start = end;
                if last.part == self.first
                    && (last.position + last.length - part.position).abs() < 0.5
                {
                    last.length += FRAME_MS;
                    return;
                }
            }
        }
        let (position, length) = (part.position, FRAME_MS);
        self.segments.push(Segment {
            part: self.first,
            start,
            position,
            length,
        });
    }

    /// An entry with the frame that is due; the caller has seen to it that there is one.
    fn write(&mut self, handle: u32, out: &mut Vec<u8>) {
        self.sequence += 1;
        let part = &mut self.parts[0];
        let named = self.told.as_deref() == Some(&part.item);
        let position = part.position as u64;
        let mut size =
            1 + varint_size(handle.into()) + 1 + varint_size(self.frame as u64) + self.frame;
        size += number_size(self.sequence) + number_size(part.epoch) + number_size(position);
        size += number_size(part.index);
        if !named {
            size += 1 + varint_size(part.item.len() as u64) + part.item.len();
        }
        out.push(0x0a);
        varint(size as u64, out);
        number(0x08, handle.into(), out);
        out.push(0x12);
        varint(self.frame as u64, out);
        let mut wanted = self.frame;
        while wanted > 0 {
            let chunk = &part.chunks[0];
            let taken = wanted.min(chunk.len() - part.at);
            out.extend_from_slice(&chunk[part.at..part.at + taken]);
            part.at += taken;
            wanted -= taken;
            if part.at == chunk.len() {
                part.chunks.pop_front();
                part.at = 0;
            }
        }
        part.left -= self.frame;
        number(0x28, self.sequence, out);
        number(0x30, part.epoch, out);
        number(0x38, position, out);
        number(0x40, part.index, out);
        if !named {
            out.push(0x4a);
            varint(part.item.len() as u64, out);
            out.extend_from_slice(part.item.as_bytes());
            self.told = Some(part.item.clone());
        }
    }
}

type Played = (Vec<(String, u64, f64)>, Vec<(u64, f64, f64, f64)>);

#[pyclass]
pub struct Outlet {
    speakers: BTreeMap<u32, Speaker>,
    late: f64,
    frames: u64,
}

#[pymethods]
impl Outlet {
    #[new]
    fn new() -> Self {
        Outlet {
            speakers: BTreeMap::new(),
            late: 0.0,
            frames: 0,
        }
    }

    fn open(&mut self, handle: u32, frame: usize, buffer: f64) {
        let speaker = Speaker {
            frame,
            bytes_per_ms: frame as f64 / FRAME_MS,
            buffer,
            parts: VecDeque::new(),
            first: 0,
            segments: Vec::new(),
            due: None,
            sequence: 0,
            told: None,
        };
        self.speakers.insert(handle, speaker);
    }

    /// Queue a delta; the bytes are kept, not copied. False when the handle is not open.
    fn push(
        &mut self,
        handle: u32,
        audio: PyBackedBytes,
        item: &str,
        index: u64,
        epoch: u64,
    ) -> bool {
        let Some(speaker) = self.speakers.get_mut(&handle) else {
            return false;
        };
        if !speaker
            .parts
            .back()
            .is_some_and(|part| part.item == item && part.index == index && !part.done)
        {
            speaker.parts.push_back(Part {
                item: item.to_owned(),
                index,
                epoch,
                chunks: VecDeque::new(),
                at: 0,
                left: 0,
                position: 0.0,
                received: 0.0,
                sent: 0.0,
                done: false,
            });
        }
        let part = speaker.parts.back_mut().unwrap();
        part.left += audio.len();
        part.received += audio.len() as f64 / speaker.bytes_per_ms;
        if !audio.is_empty() {
            part.chunks.push_back(audio);
        }
        true
    }

    /// The serialized entries of all frames that are due, and the sessions for which more is to be decided.
    fn tick<'py>(&mut self, py: Python<'py>, now: f64) -> (Bound<'py, PyBytes>, Vec<u32>) {
        let (mut out, mut others) = (Vec::with_capacity(1 << 15), Vec::new());
        for (&handle, speaker) in &mut self.speakers {
            while let Some(part) = speaker.parts.front() {
                let due = speaker
                    .due
                    .filter(|due| now <= due + CATCH_UP_SECONDS)
                    .unwrap_or(now);
                if due > now + EARLY {
                    break;
                }
                if part.left < speaker.frame {
                    others.push(handle);
                    break;
                }
                speaker.sent(now);
                speaker.write(handle, &mut out);
                speaker.parts[0].position += FRAME_MS;
                speaker.due = Some(due + FRAME_SECONDS);
                self.late += now - due;
                self.frames += 1;
            }
        }
        (PyBytes::new(py, &out), others)
    }

    /// What the ledger asks for at a cut: item, index and sent of each part, and the segments.
    fn played(&self, handle: u32) -> Option<Played> {
        let speaker = self.speakers.get(&handle)?;
        let parts = speaker
            .parts
            .iter()
            .map(|p| (p.item.clone(), p.index, p.sent))
            .collect();
        let segments = speaker
            .segments
            .iter()
            .map(|s| (s.part, s.start, s.position, s.length))
            .collect();
        Some((parts, segments))
    }

    /// Frames given, and how late they were in all, in seconds.
    fn given(&self) -> (u64, f64) {
        (self.frames, self.late)
    }
}
