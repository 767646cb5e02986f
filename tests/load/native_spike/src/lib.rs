//! A spike: the steps of a frame's way that need no decision, as one Python extension.
//!
//! Every function either does what the Python of the worker would do, or abstains (`None`, or the bytes
//! given back): whatever is unusual is the reference's to judge.

#![deny(unsafe_code)]

mod inlet;
mod outlet;
mod provider;
mod wire;

use pyo3::prelude::*;

#[pymodule]
fn native_spike(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(provider::cut_delta, module)?)?;
    module.add_function(wrap_pyfunction!(provider::append, module)?)?;
    module.add_function(wrap_pyfunction!(provider::append_frame, module)?)?;
    module.add_class::<inlet::Inlet>()?;
    module.add_class::<outlet::Outlet>()
}
