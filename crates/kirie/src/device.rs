//! `--device` and `--threads`.

use std::str::FromStr;

use burn::tensor::Device;

use crate::report;

/// Sets the number of threads; before anything runs.
pub(crate) fn set_threads(threads: Option<u16>) -> anyhow::Result<()> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    Ok(())
}

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// The processor.
    Cpu,
    /// A graphics card: the best one, or one by its number, from 0.
    Gpu(Option<usize>),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "gpu" => Ok(Self::Gpu(None)),
            Some(("gpu", n)) => {
                n.parse().map(|n| Self::Gpu(Some(n))).map_err(|_| format!("`{n}` is no number of a GPU"))
            }
            _ => Err("expected cpu, gpu or gpu:N".to_owned()),
        }
    }
}

impl DeviceArg {
    /// The device, if this build and this machine have it.
    pub(crate) fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => cpu(),
            Self::Gpu(index) => gpu(index),
        }
    }

    /// Its name for people.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Gpu(None) => "gpu".to_owned(),
            Self::Gpu(Some(n)) => format!("gpu:{n}"),
        }
    }
}

#[cfg(feature = "flex")]
#[allow(clippy::unnecessary_wraps, reason = "builds without this feature fail here")]
fn cpu() -> anyhow::Result<Device> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn cpu() -> anyhow::Result<Device> {
    Err(report::usage("this build has no CPU support; build with `--features flex`"))
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
fn gpu(index: Option<usize>) -> anyhow::Result<Device> {
    use burn::tensor::DeviceType;

    #[cfg(feature = "cuda")]
    let (kind, best) = (DeviceType::Cuda, || Device::cuda(0));
    #[cfg(all(feature = "vulkan", not(feature = "cuda")))]
    let (kind, best) = (DeviceType::Vulkan, || Device::vulkan(burn::tensor::DeviceKind::DefaultDevice));
    #[cfg(all(feature = "wgpu", not(any(feature = "vulkan", feature = "cuda"))))]
    let (kind, best) = (DeviceType::Wgpu, || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));

    let mut found: Vec<Device> = Device::enumerate(kind).into_iter().collect();
    let count = found.len();
    match index {
        _ if count == 0 => anyhow::bail!(
            "there is no GPU that this build can use. Is a driver installed (Vulkan, Metal, DX12, or CUDA, as the build was \
             made for)? `--device cpu` runs without one"
        ),
        // Burn prefers real cards to drivers that only imitate one.
        None => Ok(best()),
        Some(wanted) if wanted < count => Ok(found.swap_remove(wanted)),
        Some(wanted) => {
            Err(report::usage(format!("there is no GPU {wanted}; there are {count}, counted from 0")))
        }
    }
}

#[cfg(not(any(feature = "wgpu", feature = "vulkan", feature = "cuda")))]
fn gpu(_index: Option<usize>) -> anyhow::Result<Device> {
    Err(report::usage(
        "this build has no GPU support; build one with `cargo build --release --features wgpu` (or vulkan, or cuda)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        assert_eq!("cpu".parse(), Ok(DeviceArg::Cpu));
        assert_eq!("gpu".parse(), Ok(DeviceArg::Gpu(None)));
        assert_eq!("gpu:2".parse(), Ok(DeviceArg::Gpu(Some(2))));
        for bad in ["", "cuda", "gpu:", "gpu:x", "cpu:1"] {
            assert!(bad.parse::<DeviceArg>().is_err(), "{bad}");
        }
    }
}
