//! The files of a report.

use std::path::{Path, PathBuf};
use std::{fs, io};

use upcycle_files::FileError;

use crate::csv::csv;
use crate::error::ReportError;
use crate::page::page;
use crate::plot::{Figure, figures, png};
use crate::results::Results;
use crate::tasks::tasks_csv;

/// Figures are drawn in units of half a page pixel, so one pixel a unit is sharp on a fine screen too.
const PNG_SCALE: f32 = 1.0;

/// Writes `report.html`, `results.csv`, `results.json`, `tasks.csv` if there were tasks, and `figures/*.svg` and `*.png` into a folder, which is made
/// if it is not there, and returns the path of the page. Each file is written beside its place and renamed, so that a
/// reader never sees half of one.
///
/// # Errors
///
/// When a figure cannot be drawn or a file not be written; the error names the file.
pub fn write(results: &Results, dir: &Path) -> Result<PathBuf, ReportError> {
    let figures = figures(results)?;
    let pictures = dir.join("figures");
    fs::create_dir_all(&pictures).map_err(FileError::of("create", &pictures))?;
    for figure in &figures {
        write_figure(figure, &pictures)?;
    }
    remove_others(&figures, &pictures).map_err(FileError::of("clear", &pictures))?;
    upcycle_files::write(&dir.join("results.csv"), csv(results).as_bytes())?;
    write_tasks(results, &dir.join("tasks.csv"))?;
    let path = dir.join("results.json");
    let json = serde_json::to_vec_pretty(results).map_err(|source| ReportError::Json {
        path: path.clone(),
        source,
    })?;
    upcycle_files::write(&path, &json)?;
    let path = dir.join("report.html");
    upcycle_files::write(&path, page(results, &figures).into_string().as_bytes())?;
    Ok(path)
}

/// Writes the rows of tasks, or removes those of an earlier report where there are none.
fn write_tasks(results: &Results, path: &Path) -> Result<(), ReportError> {
    if !results.tasks.is_empty() {
        return Ok(upcycle_files::write(path, tasks_csv(results).as_bytes())?);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::of("remove", path)(error).into())
        }
        _ => Ok(()),
    }
}

/// Removes pictures that an earlier report left.
fn remove_others(figures: &[Figure], dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let picture = path
            .extension()
            .is_some_and(|kind| kind == "svg" || kind == "png");
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if picture
            && !figures
                .iter()
                .any(|figure| Some(figure.name.as_str()) == stem)
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_figure(figure: &Figure, dir: &Path) -> Result<(), ReportError> {
    upcycle_files::write(
        &dir.join(format!("{}.svg", figure.name)),
        figure.svg.as_bytes(),
    )?;
    let path = dir.join(format!("{}.png", figure.name));
    let pixels = png(&figure.svg, PNG_SCALE).map_err(|source| ReportError::Png {
        path: path.clone(),
        source,
    })?;
    Ok(upcycle_files::write(&path, &pixels)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn all_files_and_no_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/report");
        let path = write(&sample::results(), &target).unwrap();
        assert_eq!(path, target.join("report.html"));
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap();
            let mut names: Vec<String> = entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&target),
            ["figures", "report.html", "results.csv", "results.json"]
        );
        assert_eq!(names(&target.join("figures")).len(), 10);
        let json = fs::read(target.join("results.json")).unwrap();
        let read: Results = serde_json::from_slice(&json).unwrap();
        assert_eq!(read.cells.len(), 16);
        assert_eq!(read.recipes.len(), 2);
    }

    #[test]
    fn writing_twice_replaces() {
        let dir = tempfile::tempdir().unwrap();
        write(&sample::two_top_k(), dir.path()).unwrap();
        write(&sample::results(), dir.path()).unwrap();
        assert_eq!(
            fs::read_dir(dir.path().join("figures")).unwrap().count(),
            10
        );
        let table = fs::read_to_string(dir.path().join("results.csv")).unwrap();
        assert_eq!(table.lines().count(), 17);
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write(&sample::empty(), &file).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
