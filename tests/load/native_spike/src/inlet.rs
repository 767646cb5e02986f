//! Caller audio of the sessions of one stream: entries parsed, checked, and written as appends.

use std::collections::{HashMap, VecDeque};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::provider::{append_size, write_append};
use crate::wire::Reader;

/// What `InputPath` knows, and the tape for a new connection. Times and lengths in seconds.
struct Caller {
    sample: usize,
    most: usize,
    rate: f64,
    burst: f64,
    last: u64,
    ahead: f64,
    at: Option<f64>,
    gaps: u64,
    stale: u64,
    bytes: u64,
    tape: VecDeque<u8>,
    held: usize,
}

impl Caller {
    /// True when the frame goes on, false when it came twice; Err when the reference has to say what is wrong.
    fn accept(&mut self, payload: &[u8], sequence: u64, now: f64) -> Result<bool, ()> {
        let size = payload.len();
        if size == 0 || size > self.most || !size.is_multiple_of(self.sample) {
            return Err(());
        }
        let ahead = self
            .at
            .map_or(self.ahead, |at| self.ahead - (now - at))
            .max(0.0)
            + size as f64 / self.rate;
        self.at = Some(now);
        self.ahead = ahead;
        if ahead > self.burst {
            return Err(());
        }
        if sequence <= self.last {
            self.stale += 1;
            return Ok(false);
        }
        self.gaps += u64::from(sequence != self.last + 1);
        self.last = sequence;
        self.bytes += size as u64;
        self.tape.extend(payload);
        let excess = self.tape.len().saturating_sub(self.held);
        self.tape.drain(..excess);
        Ok(true)
    }
}

struct Entry<'a> {
    handle: u32,
    audio: &'a [u8],
    sequence: u64,
}

/// An entry of nothing but audio, its names in their usual order or not; None for any other.
fn audio_entry(data: &[u8]) -> Option<Entry<'_>> {
    let mut entry = Entry {
        handle: 0,
        audio: &[],
        sequence: 0,
    };
    let mut reader = Reader { rest: data };
    while !reader.rest.is_empty() {
        match reader.varint()? {
            0x08 => entry.handle = u32::try_from(reader.varint()?).ok()?,
            0x12 => entry.audio = reader.bytes()?,
            0x30 => entry.sequence = reader.varint()?,
            0x38 => {
                reader.varint()?;
            }
            _ => return None,
        }
    }
    (!entry.audio.is_empty()).then_some(entry)
}

#[pyclass]
pub struct Inlet {
    callers: HashMap<u32, Caller>,
}

#[pymethods]
impl Inlet {
    #[new]
    fn new() -> Self {
        Inlet {
            callers: HashMap::new(),
        }
    }

    /// `held`: bytes of the newest audio that are kept.
    fn open(&mut self, handle: u32, bytes_per_ms: usize, sample: usize, burst: f64, held: usize) {
        let caller = Caller {
            sample,
            most: bytes_per_ms * 1000,
            rate: bytes_per_ms as f64 * 1000.0,
            burst,
            last: 0,
            ahead: 0.0,
            at: None,
            gaps: 0,
            stale: 0,
            bytes: 0,
            tape: VecDeque::with_capacity(held + (1 << 12)),
            held,
        };
        self.callers.insert(handle, caller);
    }

    /// gaps, stale frames, bytes taken.
    fn counts(&self, handle: u32) -> PyResult<(u64, u64, u64)> {
        let caller = self
            .callers
            .get(&handle)
            .ok_or_else(|| PyValueError::new_err("handle is not open"))?;
        Ok((caller.gaps, caller.stale, caller.bytes))
    }

    /// A serialized ConverseManyRequest: the appends by handle, and the entries that Python has to judge.
    fn take<'py>(
        &mut self,
        py: Python<'py>,
        request: &[u8],
        now: f64,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        let (appends, others) = (PyList::empty(py), PyList::empty(py));
        let broken = || PyValueError::new_err("the request is no ConverseManyRequest");
        let mut reader = Reader { rest: request };
        while !reader.rest.is_empty() {
            if reader.varint() != Some(0x0a) {
                return Err(broken());
            }
            let data = reader.bytes().ok_or_else(broken)?;
            let taken = audio_entry(data).and_then(|entry| {
                let caller = self.callers.get_mut(&entry.handle)?;
                Some((caller.accept(entry.audio, entry.sequence, now).ok()?, entry))
            });
            match taken {
                Some((true, entry)) => {
                    let append = PyBytes::new_with(py, append_size(entry.audio.len()), |out| {
                        write_append(entry.audio, out);
                        Ok(())
                    })?;
                    appends.append((entry.handle, append))?;
                }
                Some((false, _)) => {}
                None => others.append(PyBytes::new(py, data))?,
            }
        }
        Ok((appends, others))
    }
}
