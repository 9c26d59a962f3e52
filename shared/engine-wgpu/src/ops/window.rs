//! Windows that slide over the spatial dimensions of a tensor: what convolutions and pools share.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::Params;

/// Most spatial dimensions of a window.
pub(crate) const SPATIAL_MAX: usize = 3;

/// A sliding window, one entry for each spatial dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Number of taps of the window.
    pub(crate) kernel: Vec<usize>,
    /// Elements between two neighbouring windows.
    pub(crate) strides: Vec<usize>,
    /// Elements between two neighbouring taps.
    pub(crate) dilations: Vec<usize>,
    /// Padding before the first element.
    pub(crate) before: Vec<usize>,
    /// Padding after the last element.
    pub(crate) after: Vec<usize>,
}

impl Window {
    /// Reads `strides`, `dilations`, `pads` and `auto_pad` of a node whose kernel and spatial input sizes are known.
    ///
    /// # Errors
    /// When lists have the wrong length or numbers make no sense.
    pub(crate) fn of(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Self, OpError> {
        let rank = input.len();
        if rank == 0 || rank > SPATIAL_MAX {
            return Err(OpError::unsupported(format!("windows over {rank} dimensions")));
        }
        if kernel.len() != rank || kernel.contains(&0) {
            return Err(OpError::invalid(format!("a kernel of {kernel:?} over {rank} spatial dimensions")));
        }
        let strides = positive(node, "strides", rank)?.unwrap_or_else(|| vec![1; rank]);
        let dilations = positive(node, "dilations", rank)?.unwrap_or_else(|| vec![1; rank]);
        let mut window =
            Self { kernel: kernel.to_vec(), strides, dilations, before: vec![0; rank], after: vec![0; rank] };
        match node.attributes.text("auto_pad", "NOTSET")? {
            "NOTSET" | "" => {
                if let Some(pads) = node.attributes.ints("pads")? {
                    let pads: Vec<usize> = pads.iter().filter_map(|&pad| usize::try_from(pad).ok()).collect();
                    if pads.len() != 2 * rank || pads.iter().any(|&pad| pad > SIZE_MAX) {
                        return Err(OpError::invalid("its pads are negative, too large or not two for each dimension"));
                    }
                    window.before = pads[..rank].to_vec();
                    window.after = pads[rank..].to_vec();
                }
            }
            "VALID" => {}
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for (d, &size) in input.iter().enumerate() {
                    let outputs = size.div_ceil(window.strides[d]);
                    let span = outputs.saturating_sub(1) * window.strides[d] + window.extent(d);
                    let total = span.saturating_sub(size);
                    let (small, large) = (total / 2, total - total / 2);
                    (window.before[d], window.after[d]) =
                        if same == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
            }
            other => return Err(OpError::invalid(format!("auto_pad is {other:?}"))),
        }
        Ok(window)
    }

    /// Input elements that one window spans.
    pub(crate) fn extent(&self, d: usize) -> usize {
        (self.kernel[d] - 1) * self.dilations[d] + 1
    }

    /// Number of windows in each dimension; `ceil` counts a last one that is cut off.
    ///
    /// # Errors
    /// When the kernel is larger than the padded input.
    pub(crate) fn outputs(&self, input: &[usize], ceil: bool) -> Result<Vec<usize>, OpError> {
        let one = |d: usize| {
            let padded = input[d] + self.before[d] + self.after[d];
            let room = padded.checked_sub(self.extent(d)).ok_or_else(|| {
                OpError::invalid(format!("a window of {} does not fit an input of {padded}", self.extent(d)))
            })?;
            let mut windows = if ceil { room.div_ceil(self.strides[d]) } else { room / self.strides[d] } + 1;
            // A window that begins behind the data and its front padding would see nothing.
            if ceil && windows > 1 && (windows - 1) * self.strides[d] >= input[d] + self.before[d] {
                windows -= 1;
            }
            Ok(windows)
        };
        (0..input.len()).map(one).collect()
    }

    /// Adds the numbers that kernels read of the last `rank` dimensions: `taps`, `stride`, `dilation`, `before`.
    ///
    /// # Errors
    /// When one is over the device's 32 bits.
    pub(crate) fn params(&self, params: Params, rank: usize) -> Result<Params, OpError> {
        let last = |numbers: &[usize]| numbers[numbers.len().saturating_sub(rank)..].to_vec();
        let params = params.list("taps", &last(&self.kernel))?.list("stride", &last(&self.strides))?;
        params.list("dilation", &last(&self.dilations))?.list("before", &last(&self.before))
    }

    /// The window with leading dimensions of one tap, so that there are three.
    pub(crate) fn to_three(&self) -> Self {
        Self {
            kernel: three(&self.kernel, 1),
            strides: three(&self.strides, 1),
            dilations: three(&self.dilations, 1),
            before: three(&self.before, 0),
            after: three(&self.after, 0),
        }
    }
}

/// Numbers of three spatial dimensions, leading ones filled in.
pub(crate) fn three(numbers: &[usize], fill: usize) -> Vec<usize> {
    let missing = SPATIAL_MAX.saturating_sub(numbers.len());
    std::iter::repeat_n(fill, missing).chain(numbers.iter().copied()).collect()
}

/// Largest kernel, stride, dilation or pad; keeps all shape arithmetic far from overflow.
const SIZE_MAX: usize = 1 << 24;

/// A list of positive integers for each spatial dimension.
pub(crate) fn positive(node: &Node, name: &str, rank: usize) -> Result<Option<Vec<usize>>, OpError> {
    let Some(values) = node.attributes.ints(name)? else { return Ok(None) };
    let numbers: Vec<usize> = values.iter().filter_map(|&value| usize::try_from(value).ok()).collect();
    if numbers.len() != rank || values.len() != rank || numbers.iter().any(|&n| n == 0 || n > SIZE_MAX) {
        return Err(OpError::invalid(format!("{name} of {values:?} over {rank} spatial dimensions")));
    }
    Ok(Some(numbers))
}
