use super::*;
use burn::tensor::Tensor;

/// Matrix A of the reference notes (`samclr.md`, section 4.3), and B, which has two rows more.
const A: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.6, 0.8]];
const B: [[f32; 3]; 6] = [A[0], A[1], A[2], A[3], [0.6, 0.0, 0.8], [0.0, 0.8, 0.6]];

fn tensor<const R: usize, const C: usize>(rows: [[f32; C]; R]) -> Tensor<2> {
    let device = Device::flex();
    Tensor::from_data(TensorData::new(rows.concat(), [R, C]), &device)
}

fn scalar(loss: Tensor<1>) -> f64 {
    f64::from(loss.into_scalar::<f32>())
}

#[test]
fn nt_xent_of_the_reference() {
    for (temperature, expected) in [(0.5, 0.639934), (0.1, 0.230462), (0.07, 0.195742)] {
        for against in [Against::Negatives, Against::All] {
            let found = scalar(nt_xent(tensor(A), 2, temperature, against));
            assert!((found - expected).abs() < 2e-6, "{temperature}, {against:?}: {found}");
        }
    }
    let scaled = scalar(nt_xent(tensor(A) * 7.5, 2, 0.5, Against::Negatives));
    assert!((scaled - 0.639934).abs() < 2e-6, "length does not count: {scaled}");
    for (against, expected) in [(Against::Negatives, 0.907097), (Against::All, 1.263822)] {
        let found = scalar(nt_xent(tensor(B), 3, 0.5, against));
        assert!((found - expected).abs() < 2e-6, "{against:?}: {found}");
    }
}

/// Very sharp temperatures neither overflow nor give NaN.
#[test]
fn nt_xent_at_the_edges() {
    for temperature in [1e-3, 100.0] {
        let found = scalar(nt_xent(tensor(B), 3, temperature, Against::Negatives));
        assert!(found.is_finite() && found >= 0.0, "{temperature}: {found}");
    }
    // All alike: the logarithm of 1 + the number of negatives.
    let found = scalar(nt_xent(tensor([[1.0, 2.0]; 8]), 2, 0.07, Against::Negatives));
    assert!((found - 7.0_f64.ln()).abs() < 1e-5, "{found}");
}

/// MoCo's loss in double precision, straight from its definition: cross entropy of [q k, q queue] / t with target 0.
#[test]
fn info_nce_is_its_definition() {
    let unit = |x: [f32; 3]| {
        let length = x.iter().map(|v| v * v).sum::<f32>().sqrt();
        x.map(|v| v / length)
    };
    let queries = [unit([1.0, 0.2, 0.1]), unit([-0.3, 1.0, 0.4])];
    let keys = [unit([0.9, 0.3, -0.2]), unit([0.1, 0.8, 0.9])];
    let queue = [unit([0.5, -1.0, 0.2]), unit([0.2, 0.1, 1.0]), unit([-1.0, 0.3, 0.3])];
    let dot = |a: [f32; 3], b: [f32; 3]| -> f64 { (0..3).map(|i| f64::from(a[i]) * f64::from(b[i])).sum() };
    for t in [0.07, 0.2] {
        let expected: f64 = (0..2)
            .map(|i| {
                let positive = dot(queries[i], keys[i]) / t;
                let all = positive.exp() + queue.iter().map(|k| (dot(queries[i], *k) / t).exp()).sum::<f64>();
                all.ln() - positive
            })
            .sum::<f64>()
            / 2.0;
        let found = scalar(info_nce(tensor(queries), tensor(keys), tensor(queue), t));
        assert!((found - expected).abs() < 1e-5, "{t}: {found} {expected}");
    }
}

/// DINO's loss in double precision, straight from `main_dino.py`: pairs of different views, mean over terms.
#[test]
fn dino_is_its_definition() {
    let student: [[f32; 3]; 6] = [
        [0.3, -0.1, 0.2],
        [0.0, 0.4, -0.2],
        [0.1, 0.1, 0.5],
        [-0.4, 0.2, 0.0],
        [0.2, 0.0, 0.1],
        [0.6, -0.5, 0.3],
    ];
    let teacher: [[f32; 3]; 4] = [[0.2, 0.1, 0.0], [0.3, -0.3, 0.1], [0.0, 0.2, 0.4], [0.1, 0.0, -0.1]];
    let centre: [[f32; 3]; 1] = [[0.05, -0.02, 0.1]];
    let softmax = |x: [f64; 3]| {
        let all: f64 = x.iter().map(|v| v.exp()).sum();
        x.map(|v| v.exp() / all)
    };
    let (mut sum, mut count) = (0.0, 0);
    for t in 0..2 {
        for s in (0..3).filter(|s| *s != t) {
            for i in 0..2 {
                let at = |c: usize| f64::from(teacher[t * 2 + i][c] - centre[0][c]) / 0.04;
                let target = softmax([at(0), at(1), at(2)]);
                let seen = softmax([0, 1, 2].map(|c| f64::from(student[s * 2 + i][c]) / 0.1));
                sum -= (0..3).map(|c| target[c] * seen[c].ln()).sum::<f64>();
                count += 1;
            }
        }
    }
    let found = scalar(dino(tensor(student), tensor(teacher), tensor(centre), 2, [0.1, 0.04]));
    assert!((found - sum / f64::from(count)).abs() < 1e-5, "{found} {}", sum / f64::from(count));
}

/// Gradients against central differences.
#[test]
fn gradients_are_those_of_the_values() {
    type Loss = Box<dyn Fn(Tensor<2>) -> Tensor<1>>;
    let rows = [
        [0.9_f32, 0.2, -0.1],
        [-0.3, 0.7, 0.2],
        [0.8, 0.5, 0.3],
        [0.1, 0.6, 0.7],
        [0.5, 0.1, 0.9],
        [0.2, 0.8, 0.5],
    ];
    let losses: [(&str, Loss); 4] = [
        ("nt-xent", Box::new(|x| nt_xent(x, 3, 0.5, Against::Negatives))),
        ("nt-xent, all", Box::new(|x| nt_xent(x, 2, 0.3, Against::All))),
        (
            "info-nce",
            Box::new(|x| {
                let x = normalised(x);
                let parts = [0, 2, 4].map(|from| x.clone().narrow(0, from, 2));
                let [queries, keys, queue] = parts;
                info_nce(queries, keys.detach(), queue.detach(), 0.2)
            }),
        ),
        (
            "dino",
            Box::new(|x| {
                let device = x.device();
                let centre = Tensor::zeros([1, 3], &device);
                let teacher = x.clone().narrow(0, 0, 4).detach();
                dino(x, teacher, centre, 2, [0.5, 0.3])
            }),
        ),
    ];
    for (name, loss) in losses {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data(TensorData::new(rows.concat(), [6, 3]), &device).require_grad();
        let gradients = loss(x.clone()).backward();
        let gradient: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        // What is detached must stay as it is while an element of x is moved, so only rows that are not targets are checked.
        let checked = match name {
            "info-nce" => 0..6,
            "dino" => 12..18,
            _ => 0..18,
        };
        for at in checked {
            let moved = |by: f32| {
                let mut values = rows.concat();
                values[at] += by;
                scalar(loss(Tensor::from_data(TensorData::new(values, [6, 3]), &Device::flex())))
            };
            let difference = (moved(5e-3) - moved(-5e-3)) / 1e-2;
            assert!(
                (difference - f64::from(gradient[at])).abs() < 2e-3,
                "{name}, {at}: {} instead of {difference}",
                gradient[at]
            );
        }
    }
}
