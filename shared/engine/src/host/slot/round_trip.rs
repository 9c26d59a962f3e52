//! One round trip of a session: the inputs are placed, the host is asked, and its answer is checked.
//!
//! Fed by [`super::Slot`] with a link to the process that the model is loaded in.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use types::{NamedTensor, TensorError};

use super::{REGION_BYTES_KEPT, Slot, Trouble};
use crate::host::ANSWER_GRACE;
use crate::host::frame::{Placed, Reply, Run, RunProblem, send};
use crate::host::link::{Link, REGION_BYTES_MAX, garbage, take};
use crate::host::memory::aligned;
use crate::session::{RunControl, RunError};

impl Slot {
    /// Sends one request to the host and returns its outputs.
    pub(super) fn run_on(
        &self,
        link: &mut Link,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, Trouble> {
        let failed = |error: io::Error| Trouble::Error(RunError::Failed(error.into()));
        link.runs = link.runs.saturating_add(1);
        let wanted = self.wanted(outputs);
        let request = self.place(link, inputs, &wanted, control).map_err(failed)?;
        let (number, run, process) = (self.number, link.runs, Arc::clone(&link.process));
        process.begin(number);
        if let Err(error) = send(&link.socket, &request, &[], false) {
            return match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                    process.end(number);
                    Err(Trouble::NotSent)
                }
                io::ErrorKind::FileTooLarge => {
                    process.end(number);
                    Err(failed(error))
                }
                // A host that does not read.
                _ => Err(Trouble::Died(self.ended(&process, &error))),
            };
        }
        let canceller = Arc::clone(&process);
        let guard = control.cancel.on_cancel(Arc::new(move || canceller.cancel(number, run)));
        let reply = link.receiver.receive::<Reply>(&link.socket, self.kill_at(control));
        drop(guard);
        let answer = match reply {
            Ok(Reply::Answer { run: answered, outputs }) if answered == run => take(&mut link.region, &wanted, outputs),
            Ok(Reply::NoAnswer { run: answered, problem }) if answered == run => {
                process.end(number);
                return Err(Trouble::Error(self.no_answer(problem)));
            }
            Ok(_other) => Err(garbage("a reply to another request")),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                process.end(number);
                link.region.release_behind(REGION_BYTES_KEPT);
                Ok(answer)
            }
            Err(error) => Err(Trouble::Died(self.ended(&process, &error))),
        }
    }

    /// Time at which a host that has not answered is killed. Not the deadline of the request alone: an impatient client must
    /// not be able to end hosts.
    fn kill_at(&self, control: &RunControl) -> Option<Instant> {
        let longest = Instant::now().checked_add(self.host_options.run_limit);
        longest.max(control.deadline).and_then(|last| last.checked_add(ANSWER_GRACE))
    }

    /// Names and numbers of the wanted outputs.
    fn wanted<'a>(&'a self, outputs: &[String]) -> Vec<(usize, &'a str)> {
        let specs = &self.signature().outputs;
        if outputs.is_empty() {
            return specs.iter().enumerate().map(|(at, spec)| (at, spec.name.as_str())).collect();
        }
        let find = |name: &String| {
            let at = specs.iter().position(|spec| spec.name == *name)?;
            Some((at, specs.get(at)?.name.as_str()))
        };
        outputs.iter().filter_map(find).collect()
    }

    /// Copies the inputs into the region and describes them.
    fn place(
        &self,
        link: &mut Link,
        inputs: &[NamedTensor],
        wanted: &[(usize, &str)],
        control: &RunControl,
    ) -> io::Result<Run> {
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "the inputs are too large");
        let mut placed = Vec::with_capacity(inputs.len());
        let mut end = 0;
        for input in inputs {
            let Some(at) = self.signature().inputs.iter().position(|spec| spec.name == input.name) else { continue };
            let length = input.tensor.data().len();
            placed.push(Placed { input: at, shape: input.tensor.shape().to_vec(), offset: end, length });
            end = end
                .checked_add(length)
                .and_then(aligned)
                .filter(|&end| end <= REGION_BYTES_MAX)
                .ok_or_else(too_large)?;
        }
        link.region.reserve(end, true)?;
        for (input, placed) in inputs.iter().zip(&placed) {
            link.region.write(placed.offset, input.tensor.data())?;
        }
        let left = control.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Ok(Run {
            run: link.runs,
            left_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
            inputs: placed,
            outputs: wanted.iter().map(|(at, _)| *at).collect(),
            outputs_at: end,
        })
    }

    fn no_answer(&self, problem: RunProblem) -> RunError {
        match problem {
            RunProblem::Deadline => RunError::Deadline,
            RunProblem::Cancelled => RunError::Cancelled,
            RunProblem::NotText { input, element } => RunError::NotText { input, element },
            RunProblem::TooLarge { output, dtype, shape } => match dtype.parse() {
                Ok(dtype) => RunError::Output { output, cause: TensorError::TooLarge { dtype, shape } },
                Err(_unknown) => RunError::Failed(format!("output {output:?} is too large").into()),
            },
            RunProblem::Failed { cause } => RunError::Failed(cause.into()),
            RunProblem::Refused { text } => RunError::Refused(text),
            RunProblem::Lost { cause } => {
                self.lost.get_or_init(|| cause.clone());
                RunError::Lost(cause.into())
            }
        }
    }
}
