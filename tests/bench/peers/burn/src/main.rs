//! One operation of burn on wgpu: `peer-burn matmul` (512×512 by 512×512) or `peer-burn conv` (3×3, 64 to 64 channels of
//! 56×56, padded by 1).

#[path = "../../serve.rs"]
mod serve;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData, module::conv2d};
use serve::{Subject, numbers, serve};

struct Operation {
    device: Device,
    compute: Box<dyn Fn() -> Vec<f32>>,
    launch: Box<dyn Fn()>,
}

impl Subject for Operation {
    fn run(&mut self) {
        (self.launch)();
        self.device.sync().expect("the device answers");
    }

    fn output(&mut self) -> Vec<f32> {
        (self.compute)()
    }
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product()), shape), device)
}

fn operation<const D: usize>(device: Device, compute: impl Fn() -> Tensor<D> + Clone + 'static) -> Operation {
    let again = compute.clone();
    Operation {
        device,
        compute: Box::new(move || compute().into_data().to_vec().expect("a float tensor")),
        launch: Box::new(move || drop(again())),
    }
}

fn main() {
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let name = std::env::args().nth(1).unwrap_or_default();
    let mut subject = match name.as_str() {
        "matmul" => {
            let (a, b) = (tensor([512, 512], &device), tensor([512, 512], &device));
            operation(device, move || Tensor::<2>::matmul(a.clone(), b.clone()))
        }
        "conv" => {
            let (image, weights) = (tensor([1, 64, 56, 56], &device), tensor([64, 64, 3, 3], &device));
            let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
            operation(device, move || conv2d(image.clone(), weights.clone(), None, options.clone()))
        }
        other => panic!("no operation is called {other:?}: matmul or conv"),
    };
    serve("burn's default device", &mut subject).expect("the benchmark listens");
}
