//! Dequantisation, block by block. The order of the f32 operations is that of the reference
//! (`gguf` for Python), so that the results are equal to the last bit.

use half::{bf16, f16};

use super::tensor_type::TensorType;

/// Values of whole blocks. `bytes` must hold a whole number of them.
pub(super) fn dequantize(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let mut out = Vec::with_capacity(blocks.len() * kind.block_len());
    for block in blocks {
        match kind {
            TensorType::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
            TensorType::F16 => out.push(half_at(block, 0)),
            TensorType::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
            TensorType::Q4_0 => q4_0(block, &mut out),
            TensorType::Q4_1 => q4_1(block, &mut out),
            TensorType::Q5_0 => q5_0(block, &mut out),
            TensorType::Q5_1 => q5_1(block, &mut out),
            TensorType::Q8_0 => {
                let d = half_at(block, 0);
                out.extend(block[2..].iter().map(|q| f32::from(q.cast_signed()) * d));
            }
            TensorType::Q2K => q2_k(block, &mut out),
            TensorType::Q3K => q3_k(block, &mut out),
            TensorType::Q4K => q4_k(block, &mut out),
            TensorType::Q5K => q5_k(block, &mut out),
            TensorType::Q6K => q6_k(block, &mut out),
        }
    }
    out
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 four-bit numbers of 16 bytes: all low halves, then all high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 0x0f).chain(bytes.iter().map(|byte| byte >> 4))
}

/// Bit `i` of a little-endian bit field, as 0 or 1.
fn bit(field: &[u8], i: usize) -> u8 {
    (field[i / 8] >> (i % 8)) & 1
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| (f32::from(q) - 8.0) * d));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend(nibbles(&block[4..]).map(|q| f32::from(q) * d + m));
}

fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    let high = &block[2..6];
    let five = |(i, q)| f32::from(q | (bit(high, i) << 4)) - 16.0;
    out.extend(nibbles(&block[6..]).enumerate().map(|q| five(q) * d));
}

fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = &block[4..8];
    let five = |(i, q)| f32::from(q | (bit(high, i) << 4));
    out.extend(nibbles(&block[8..]).enumerate().map(|q| five(q) * d + m));
}

/// Super-blocks hold 256 numbers in sub-blocks with scales of their own.
fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for i in 0..256 {
        let q = (quants[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        let scale = scales[i / 16];
        out.push(d * f32::from(scale & 0x0f) * f32::from(q) - dmin * f32::from(scale >> 4));
    }
}

fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    // Sixteen 6-bit scales: low four bits in 8 bytes, high two bits in 4 bytes.
    let scale = |j: usize| {
        let low = (packed[j % 8] >> (4 * (j / 8))) & 0x0f;
        let upper = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        f32::from((low | (upper << 4)).cast_signed() - 32)
    };
    for i in 0..256 {
        let low = (quants[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        // A set high bit means "no 4 to subtract".
        let missing = 1 - ((high[i % 32] >> (i / 32)) & 1);
        let q = low.cast_signed() - (missing << 2).cast_signed();
        out.push(d * scale(i / 16) * f32::from(q));
    }
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 0x0f) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..144]);
    for i in 0..256 {
        let (scale, min) = scale_and_min(packed, i / 32);
        let q = (quants[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 0x0f;
        out.push(d * scale * f32::from(q) - dmin * min);
    }
}

fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, high, quants) = (&block[4..16], &block[16..48], &block[48..176]);
    for i in 0..256 {
        let (scale, min) = scale_and_min(packed, i / 32);
        let low = (quants[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 0x0f;
        let q = low | (((high[i % 32] >> (i / 32)) & 1) << 4);
        out.push(d * scale * f32::from(q) - dmin * min);
    }
}

fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for i in 0..256 {
        let four = (low[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 0x0f;
        let two = (high[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        let q = (four | (two << 4)).cast_signed() - 32;
        out.push(d * f32::from(scales[i / 16].cast_signed()) * f32::from(q));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f16_bytes(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn four_bits_low_halves_first() {
        let mut block = f16_bytes(0.5).to_vec();
        block.extend((0..16).map(|i| i | ((15 - i) << 4)));
        let values = dequantize(TensorType::Q4_0, &block);
        assert_eq!((values.len(), values[0], values[15], values[16]), (32, -4.0, 3.5, 3.5));

        let mut block = f16_bytes(0.5).to_vec();
        block.extend(f16_bytes(-1.0));
        block.extend((0..16).map(|i| i | ((15 - i) << 4)));
        let values = dequantize(TensorType::Q4_1, &block);
        assert_eq!((values[0], values[3], values[16]), (-1.0, 0.5, 6.5));
    }

    #[test]
    fn the_fifth_bit_comes_from_the_field() {
        let mut block = f16_bytes(1.0).to_vec();
        block.extend([0b10, 0, 1, 0]); // of numbers 1 and 16
        block.extend([3; 16]);
        let values = dequantize(TensorType::Q5_0, &block);
        assert_eq!((values[0], values[1], values[16]), (3.0 - 16.0, 3.0, -16.0 + 16.0));
    }

    #[test]
    fn eight_bits_are_signed() {
        let mut block = f16_bytes(2.0).to_vec();
        block.extend([1, 0xff, 0x80]);
        block.extend([0; 29]);
        assert_eq!(dequantize(TensorType::Q8_0, &block)[..3], [2.0, -2.0, -256.0]);
    }

    /// scripts/make-fixtures.py: random bytes of every block format, read by `gguf` for Python.
    #[test]
    fn every_block_format_equals_the_reference_to_the_last_bit() {
        #[derive(serde::Deserialize)]
        struct Case {
            r#type: u32,
            name: String,
            bytes: String,
            values: Vec<f32>,
        }
        let text = include_str!("../../../tests/fixtures/gguf-blocks.json");
        let cases: Vec<Case> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 10);
        for case in cases {
            let digits = case.bytes.as_bytes().chunks_exact(2);
            let bytes: Vec<u8> = digits
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            let values = dequantize(TensorType::from_id(case.r#type).unwrap(), &bytes);
            assert_eq!(values, case.values, "{}", case.name);
        }
    }
}
