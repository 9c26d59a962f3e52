//! Progress of long operations on standard error; silent unless standard error is a terminal.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Interval of a spinner's animation: rare enough to cost nothing, often enough to look active.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// A progress bar or a spinner. It is removed from the screen when dropped, unless [`Progress::done`] left its last
/// line.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Adds to the completed amount.
    pub fn add(&self, amount: u64) {
        self.bar.inc(amount);
    }

    /// Sets the completed amount.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Sets the total, if it became known after the start.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Replaces the label of the bar.
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        self.bar.set_message(label);
    }

    /// Ends the progress and leaves one last line on the screen.
    pub fn done(self, message: impl Into<Cow<'static, str>>) {
        self.bar.finish_with_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}

/// Creates a bar that counts bytes, with rate and remaining time.
pub fn progress_bytes(label: impl Into<Cow<'static, str>>, total: u64) -> Progress {
    bar(label, total, "{msg:24} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Creates a bar that counts items.
pub fn progress_count(label: impl Into<Cow<'static, str>>, total: u64) -> Progress {
    bar(label, total, "{msg:24} [{bar:30}] {pos}/{len} {per_sec} {eta}")
}

/// Creates a spinner for work of unknown length.
pub fn spinner(label: impl Into<Cow<'static, str>>) -> Progress {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style(ProgressStyle::default_spinner(), "{spinner} {msg} {elapsed}"));
    bar.set_message(label);
    // A hidden bar must not start a ticking thread.
    if !bar.is_hidden() {
        bar.enable_steady_tick(SPINNER_TICK);
    }
    Progress { bar }
}

fn bar(label: impl Into<Cow<'static, str>>, total: u64, template: &str) -> Progress {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(style(ProgressStyle::default_bar(), template).progress_chars("=> "));
    bar.set_message(label);
    Progress { bar }
}

/// Applies a template; keeps the default style if the template, a constant of this file, were invalid.
fn style(base: ProgressStyle, template: &str) -> ProgressStyle {
    base.clone().template(template).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in ["{msg:24} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}", "{spinner} {msg} {elapsed}"]
        {
            ProgressStyle::default_bar().template(template).unwrap();
        }
    }

    #[test]
    fn progress_can_be_used_without_a_terminal() {
        let progress = progress_bytes("digits/2", 100);
        progress.add(40);
        progress.set_total(200);
        progress.done("digits/2 sent");
        drop(spinner("waiting"));
    }
}
