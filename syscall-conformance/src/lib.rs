//! Guest programs and the differential runner.
