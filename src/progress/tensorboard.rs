//! TensorBoard event files, for scalars only.
//!
//! Written by hand since no crate fits: `tensorboard-rs` is given up and stands on a protobuf crate
//! with a known flaw, `tboard` needs `protoc` to build, `tfrecord` brings a dozen
//! more crates to run and an HTTP client to build. The format
//! is a record frame (length, masked CRC-32C of it, data, masked CRC-32C of that) around an `Event`
//! message of five fields.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// An open event file. It holds wall times, so it is never part of a result.
#[derive(Debug)]
pub struct EventFile(File);

impl EventFile {
    /// Makes a new file in `folder`, under a name that TensorBoard looks for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        let seconds = now() as u64;
        let name = format!("events.out.tfevents.{seconds:010}.evergraft.{}", std::process::id());
        let mut file = Self(File::options().create(true).append(true).open(folder.join(name))?);
        file.0.write_all(&record(&event(now(), 0, &bytes_field(3, b"brain.Event:2"))))?;
        Ok(file)
    }

    /// Adds the scalars of one step.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn add(&mut self, step: usize, scalars: &[(&str, f64)]) -> std::io::Result<()> {
        self.0.write_all(&record(&event(now(), step, &bytes_field(5, &summary(scalars)))))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `Event { double wall_time = 1; int64 step = 2; oneof { string file_version = 3; Summary summary = 5 } }`.
fn event(time: f64, step: usize, what: &[u8]) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(time.to_le_bytes());
    out.push(2 << 3);
    varint(step, &mut out);
    out.extend(what);
    out
}

/// `Summary { repeated Value value = 1 }`, `Value { string tag = 1; float simple_value = 2 }`.
fn summary(scalars: &[(&str, f64)]) -> Vec<u8> {
    let value = |(tag, scalar): &(&str, f64)| {
        let mut value = bytes_field(1, tag.as_bytes());
        value.push(2 << 3 | 5);
        value.extend((*scalar as f32).to_le_bytes());
        bytes_field(1, &value)
    };
    scalars.iter().flat_map(value).collect()
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(bytes.len(), &mut out);
    out.extend(bytes);
    out
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts = [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()];
    parts.concat()
}

fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82F6_3B78))
    });
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tensorboard.compat.proto` and `crc32c` give for the same values.
    #[test]
    fn bytes_are_tensorboards() {
        let crc = masked_crc(b"123456789").wrapping_sub(0xA282_EAD8).rotate_left(15);
        assert_eq!(crc, 0xE306_9283, "the check value of CRC-32C");
        let event = event(1.5, 300, &bytes_field(5, &summary(&[("a", 0.25)])));
        let hex: String = event.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "09000000000000f83f10ac022a0a0a080a016115 0000803e".replace(' ', ""));
    }
}
