//! What the device reaches at its best.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Tensor};

/// Operations in a second of one large product on this device.
pub(crate) fn matrix_peak(device: &Device, dtype: DType) -> f64 {
    const SIZE: usize = 1536;
    let a = Tensor::<2>::ones([SIZE, SIZE], (device, dtype));
    let once = || {
        let start = Instant::now();
        let _ = a.clone().matmul(a.clone()).slice([0..1, 0..1]).into_data();
        start.elapsed()
    };
    let best = (0..10).map(|_| once()).min().unwrap_or(Duration::MAX);
    2.0 * (SIZE as f64).powi(3) / best.as_secs_f64()
}
