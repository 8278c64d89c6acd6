//! How far something is that takes long: a bar on the terminal of errors, gone at its end. Without a terminal there is none, so that
//! logs and pipes have none in them.

use std::io::{IsTerminal, Write};

/// Characters of the whole bar.
const WIDTH: usize = 30;

/// The bar.
pub struct Progress<'w> {
    out: Option<&'w mut dyn Write>,
    all: usize,
    done: usize,
}

impl<'w> Progress<'w> {
    /// Nothing of so many things is done yet. `out` is where errors go.
    pub fn new(out: &'w mut dyn Write, all: usize) -> Self {
        Self::on(std::io::stderr().is_terminal().then_some(out), all)
    }

    fn on(out: Option<&'w mut dyn Write>, all: usize) -> Self {
        Self { out, all: all.max(1), done: 0 }
    }

    /// One more is done, of this name.
    pub fn step(&mut self, name: &str) {
        self.done = (self.done + 1).min(self.all);
        let Self { all, done, .. } = *self;
        if let Some(out) = &mut self.out {
            let filled = WIDTH * done / all;
            // That it is shown is not vital.
            let _ = write!(out, "\r\x1b[K[{:<WIDTH$}] {done} of {all}  {name}", "#".repeat(filled));
            let _ = out.flush();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(out) = self.out.as_mut().filter(|_| self.done > 0) {
            let _ = write!(out, "\r\x1b[K");
            let _ = out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_and_goes() {
        let mut out = Vec::new();
        let mut progress = Progress::on(Some(&mut out), 3);
        for name in ["a", "b", "c", "more than there were"] {
            progress.step(name);
        }
        drop(progress);
        let text = String::from_utf8(out).unwrap();
        let shown: Vec<_> = text.split("\r\x1b[K").collect();
        assert_eq!(shown[1], format!("[{}{}] 1 of 3  a", "#".repeat(10), " ".repeat(20)));
        assert_eq!(shown[3], format!("[{}] 3 of 3  c", "#".repeat(30)));
        assert_eq!(shown.last(), Some(&""));
    }

    #[test]
    fn where_nobody_sees_it_there_is_none() {
        let mut progress = Progress::on(None, 3);
        progress.step("a");
    }
}
