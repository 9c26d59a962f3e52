//! Operators on sound: Fourier transforms, and the windows and weights that models compute from constants.

pub(super) mod fourier;
pub(super) mod window;
