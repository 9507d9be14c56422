//! What a sweep found out, for people: a self-contained HTML page, a CSV file, a table for the terminal, figures. All of it
//! is made from result rows alone.
//!
//! ```text
//! Results -> groups -> statistics -> page, table, plots -> files
//! ```

mod columns;
mod csv;
mod error;
mod files;
mod gap;
mod group;
mod markdown;
mod model;
pub mod number;
mod page;
pub mod plot;
mod results;
mod rows;
#[cfg(test)]
mod sample;
pub mod statistics;
mod table;
mod tasks;

pub use columns::in_columns;
pub use csv::csv;
pub use error::ReportError;
pub use files::write;
pub use markdown::markdown;
pub use page::{html, paper_gpu_hours};
pub use results::{
    Arm, Cell, Curve, Environment, Grows, Overrides, RecipeRow, Results, RoutingRow, Setting,
    TaskRow, TwinPoint,
};
pub use rows::read_csv;
pub use table::table;
pub use tasks::task_table;
