//! Where a convolution's or pool's window lies: strides, pads, dilations, for one to three spatial dimensions.

use crate::error::OpError;
use crate::ir::{Attributes, Node};
use crate::lower::Params;

/// Spatial dimensions that the kernels write out; fewer are led by sizes of 1.
pub(super) const SPATIAL: usize = 3;

/// The window of one node at one input shape, always over [`SPATIAL`] dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Size of the window.
    pub(super) kernel: [usize; SPATIAL],
    /// Size of the input.
    pub(super) input: [usize; SPATIAL],
    /// Size of the output.
    pub(super) output: [usize; SPATIAL],
    /// Elements between two neighbouring windows.
    pub(super) strides: [usize; SPATIAL],
    /// Elements that the input is extended by in front.
    pub(super) pads: [usize; SPATIAL],
    /// Elements that the input is extended by behind.
    pub(super) pads_end: [usize; SPATIAL],
    /// Steps inside a window.
    pub(super) dilations: [usize; SPATIAL],
    rank: usize,
}

impl Window {
    /// Reads a node's attributes; `input` and `kernel` are spatial sizes alone.
    ///
    /// # Errors
    /// When sizes do not fit each other.
    pub(super) fn of(node: &Node, input: &[usize], kernel: &[usize]) -> Result<Self, OpError> {
        let rank = input.len();
        if rank == 0 || rank > SPATIAL || kernel.len() != rank {
            return Err(OpError::unsupported(format!("a window of {kernel:?} over {input:?}")));
        }
        if kernel.contains(&0) {
            return Err(OpError::invalid("its window is empty"));
        }
        let attributes = &node.attributes;
        let strides = sizes(attributes, "strides", &vec![1; rank])?;
        let dilations = sizes(attributes, "dilations", &vec![1; rank])?;
        if strides.contains(&0) || dilations.contains(&0) {
            return Err(OpError::invalid("a stride or dilation is zero"));
        }
        let pads = sizes(attributes, "pads", &vec![0; 2 * rank])?;
        if strides.len() != rank || dilations.len() != rank || pads.len() != 2 * rank {
            return Err(OpError::invalid(format!("strides, dilations or pads do not fit {rank} dimensions")));
        }
        let auto = attributes.text("auto_pad", "NOTSET")?;
        let ceil = attributes.flag("ceil_mode", false)?;
        let mut window = Self {
            kernel: lead(kernel, 1),
            input: lead(input, 1),
            output: [1; SPATIAL],
            strides: lead(&strides, 1),
            pads: lead(&pads[..rank], 0),
            pads_end: lead(&pads[rank..], 0),
            dilations: lead(&dilations, 1),
            rank,
        };
        for at in 0..SPATIAL {
            window.fit(at, auto, ceil)?;
        }
        Ok(window)
    }

    /// One window over the whole input.
    ///
    /// # Errors
    /// When the input is empty.
    pub(super) fn whole(input: &[usize]) -> Result<Self, OpError> {
        // More dimensions than the kernels write out are one long one to a mean.
        let input = if input.len() > SPATIAL { vec![input.iter().product()] } else { input.to_vec() };
        if input.contains(&0) {
            return Err(OpError::invalid("its input is empty"));
        }
        Ok(Self {
            kernel: lead(&input, 1),
            input: lead(&input, 1),
            output: [1; SPATIAL],
            strides: [1; SPATIAL],
            pads: [0; SPATIAL],
            pads_end: [0; SPATIAL],
            dilations: [1; SPATIAL],
            rank: input.len(),
        })
    }

    fn fit(&mut self, at: usize, auto: &str, ceil: bool) -> Result<(), OpError> {
        let too_large = || OpError::invalid("its window or pads are too large");
        let span = (self.kernel[at] - 1).checked_mul(self.dilations[at]).and_then(|span| span.checked_add(1));
        let span = span.filter(|&span| span < 1 << 31).ok_or_else(too_large)?;
        let (input, stride) = (self.input[at], self.strides[at]);
        match auto {
            "NOTSET" | "" => {}
            "VALID" => (self.pads[at], self.pads_end[at]) = (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let output = input.div_ceil(stride);
                let total = (output.saturating_sub(1) * stride + span).saturating_sub(input);
                let (less, more) = (total / 2, total - total / 2);
                (self.pads[at], self.pads_end[at]) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
            other => return Err(OpError::unsupported(format!("auto_pad {other:?}"))),
        }
        if self.pads[at] >= 1 << 31 || self.pads_end[at] >= 1 << 31 {
            return Err(too_large());
        }
        let padded = input + self.pads[at] + self.pads_end[at];
        let room = padded.checked_sub(span).ok_or_else(|| OpError::invalid("its window is larger than its input"))?;
        self.output[at] = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // A window that begins in the padding behind the input does not count.
        if ceil && (self.output[at] - 1) * stride >= input + self.pads[at] {
            self.output[at] -= 1;
        }
        Ok(())
    }

    /// The output's spatial sizes, as many as the input has.
    pub(super) fn output_shape(&self) -> &[usize] {
        &self.output[SPATIAL - self.rank..]
    }

    /// Positions of the output.
    pub(super) fn positions(&self) -> usize {
        self.output.iter().product()
    }

    /// Returns whether the window is one element that visits every element of the input once, in order.
    pub(super) fn is_identity(&self) -> bool {
        self.taps() == 1 && self.input == self.output && self.strides == [1; SPATIAL] && self.pads == [0; SPATIAL]
    }

    /// Elements of the window.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Returns the numbers that kernels read by the functions of [`names`].
    ///
    /// # Errors
    /// When one is over the device's 32 bits.
    pub(super) fn params(&self) -> Result<Params, OpError> {
        let params = Params::new().list("kernel", &self.kernel)?.list("input", &self.input)?;
        let params = params.list("output", &self.output)?.list("stride", &self.strides)?;
        params.list("pad", &self.pads)?.list("dilation", &self.dilations)
    }
}

/// Returns WGSL functions that name the numbers of [`Window::params`] by axis.
pub(super) fn names() -> String {
    let groups = ["kernel", "input", "output", "stride", "pad", "dilation"];
    let mut text = String::new();
    for group in groups {
        for (axis, name) in ["d", "h", "w"].iter().enumerate() {
            text.push_str(&format!("fn {group}_{name}() -> u32 {{ return param.{group}[{axis}]; }}\n"));
        }
    }
    text
}

fn sizes(attributes: &Attributes, name: &str, default: &[usize]) -> Result<Vec<usize>, OpError> {
    let Some(given) = attributes.ints(name)? else { return Ok(default.to_vec()) };
    let size = |&value: &i64| usize::try_from(value).ok().filter(|&value| value < 1 << 31);
    let sizes: Option<Vec<usize>> = given.iter().map(size).collect();
    sizes.ok_or_else(|| OpError::invalid(format!("{name} {given:?} has a value out of range")))
}

fn lead(sizes: &[usize], with: usize) -> [usize; SPATIAL] {
    let mut out = [with; SPATIAL];
    out[SPATIAL - sizes.len()..].copy_from_slice(sizes);
    out
}
