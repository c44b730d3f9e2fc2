//! Reads little-endian values from bytes that may end anywhere. Never allocates by a length it has
//! not compared with what is left.

use anyhow::{Context as _, ensure};

/// A position in a GGUF file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// At `position` of the same bytes; for values that were skipped over before.
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position: position.min(bytes.len()) }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> anyhow::Result<&'a [u8]> {
        let (position, remaining) = (self.position, self.remaining());
        let end = usize::try_from(count).ok().filter(|&count| count <= remaining).with_context(|| {
            format!("the file is cut short: {count} bytes wanted at byte {position}, {remaining} left")
        })? + position;
        let taken = &self.bytes[position..end];
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take(N as u64)?.try_into().expect("take returns as many bytes as asked"))
    }

    pub(super) fn u8(&mut self) -> anyhow::Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> anyhow::Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> anyhow::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> anyhow::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn f32(&mut self) -> anyhow::Result<f32> {
        self.array().map(f32::from_le_bytes)
    }

    pub(super) fn f64(&mut self) -> anyhow::Result<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// A text with its length in front.
    pub(super) fn text(&mut self) -> anyhow::Result<&'a str> {
        let length = self.u64()?;
        let position = self.position;
        std::str::from_utf8(self.take(length)?)
            .with_context(|| format!("the text at byte {position} is not UTF-8"))
    }

    /// A number of things of at least `min_size` bytes each, which must fit into what is left.
    pub(super) fn count(&mut self, of: &str, min_size: usize) -> anyhow::Result<usize> {
        let count = self.u64()?;
        let most = self.remaining() / min_size;
        ensure!(count <= most as u64, "the file claims {count} {of}, but has room for {most} at most");
        Ok(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_beyond_the_end_are_errors() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend(b"abc");
        assert!(Cursor::new(&bytes).text().unwrap_err().to_string().contains("cut short"));
        assert!(Cursor::new(&bytes).count("tensors", 24).unwrap_err().to_string().contains("room for 0"));
        assert!(Cursor::new(&bytes[..7]).u64().is_err());
    }

    #[test]
    fn reads_a_text() {
        let mut bytes = 3_u64.to_le_bytes().to_vec();
        bytes.extend(b"abcd");
        let mut cursor = Cursor::new(&bytes);
        assert_eq!((cursor.text().unwrap(), cursor.remaining()), ("abc", 1));
    }
}
