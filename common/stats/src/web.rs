//! What people see: numbers as they read them, and charts.

pub mod chart;
pub mod format;
