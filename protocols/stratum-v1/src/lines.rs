//! Splits a stream of bytes into lines, holding on to nothing but what is unfinished.

/// The longest line that is accepted by default, in bytes.
pub const MAX_LINE: usize = 16 * 1024;

/// What is left of a connection's stream between two reads. Empty, it owns no memory.
#[derive(Debug)]
pub struct LineBuffer {
    /// Bytes that have come but are not used up; `[..start]` of them is.
    held: Vec<u8>,
    start: usize,
    /// `held[start..scanned]` holds no line end, so that bytes coming one by one are not searched over and over.
    scanned: usize,
    /// The line that is passing is too long, was reported, and is skipped to its end.
    skipping: bool,
    max: usize,
}

/// One line of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line without its end. Blank lines are skipped.
    Whole(&'a [u8]),
    /// A line longer than is accepted; reported once, and what remains of it is skipped.
    TooLong,
}

impl LineBuffer {
    /// Accepts lines of up to `max` bytes, not counting the line feed.
    pub fn new(max: usize) -> Self {
        Self {
            held: Vec::new(),
            start: 0,
            scanned: 0,
            skipping: false,
            max,
        }
    }

    /// The lines that `chunk` completes. Lines that are not taken are kept, and come first the next time; an empty chunk
    /// asks for those. So the buffer holds at most one unfinished line, and what the caller left of one chunk.
    pub fn lines<'b>(&'b mut self, chunk: &'b [u8]) -> Lines<'b> {
        Lines {
            buffer: self,
            chunk,
        }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.held.len()
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

/// The lines of one chunk; see [`LineBuffer::lines`].
#[derive(Debug)]
pub struct Lines<'b> {
    buffer: &'b mut LineBuffer,
    chunk: &'b [u8],
}

impl Lines<'_> {
    /// The next line; `None` when what is left is not a whole line. (Lending, so not an `Iterator`.)
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Line<'_>> {
        let found = self.find()?;
        Some(match found {
            Found::Held(from, to) => Line::Whole(without_cr(&self.buffer.held[from..to])),
            Found::Chunk(line) => Line::Whole(without_cr(line)),
            Found::TooLong => Line::TooLong,
        })
    }
}

enum Found<'b> {
    Held(usize, usize),
    Chunk(&'b [u8]),
    TooLong,
}

impl<'b> Lines<'b> {
    fn find(&mut self) -> Option<Found<'b>> {
        loop {
            let found = if self.buffer.is_empty() {
                self.find_in_chunk()?
            } else {
                self.find_in_held()?
            };
            match found {
                // The end of a line that was reported already.
                _ if std::mem::take(&mut self.buffer.skipping) => {}
                Found::Held(from, to) if to - from > self.buffer.max => {
                    return Some(Found::TooLong);
                }
                Found::Chunk(line) if line.len() > self.buffer.max => return Some(Found::TooLong),
                Found::Held(from, to) if without_cr(&self.buffer.held[from..to]).is_empty() => {}
                Found::Chunk(line) if without_cr(line).is_empty() => {}
                Found::TooLong => {
                    self.buffer.skipping = true;
                    return Some(Found::TooLong);
                }
                line => return Some(line),
            }
        }
    }

    /// Nothing is held: a line that is whole is not copied.
    fn find_in_chunk(&mut self) -> Option<Found<'b>> {
        self.buffer.clear();
        let chunk = self.chunk;
        if let Some(end) = memchr::memchr(b'\n', chunk) {
            self.chunk = &chunk[end + 1..];
            return Some(Found::Chunk(&chunk[..end]));
        }
        self.chunk = &[];
        self.hold(chunk)
    }

    /// Something is held: the line begins there and ends there or in the chunk.
    fn find_in_held(&mut self) -> Option<Found<'b>> {
        let buffer = &mut *self.buffer;
        let end = match memchr::memchr(b'\n', &buffer.held[buffer.scanned..]) {
            Some(end) => buffer.scanned + end,
            None => {
                let chunk = std::mem::take(&mut self.chunk);
                let Some(end) = memchr::memchr(b'\n', chunk) else {
                    return self.hold(chunk);
                };
                self.chunk = &chunk[end + 1..];
                buffer.held.extend_from_slice(&chunk[..=end]);
                buffer.held.len() - 1
            }
        };
        let from = std::mem::replace(&mut buffer.start, end + 1);
        buffer.scanned = end + 1;
        Some(Found::Held(from, end))
    }

    /// Keeps the beginning of a line, unless it is too long already.
    fn hold(&mut self, chunk: &[u8]) -> Option<Found<'b>> {
        let buffer = &mut *self.buffer;
        if buffer.skipping {
            buffer.clear();
            return None;
        }
        if buffer.held.len() - buffer.start + chunk.len() > buffer.max {
            buffer.clear();
            return Some(Found::TooLong);
        }
        buffer.held.extend_from_slice(chunk);
        buffer.scanned = buffer.held.len();
        None
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        let buffer = &mut *self.buffer;
        if buffer.is_empty() {
            buffer.clear();
        } else if buffer.start > 0 {
            buffer.held.drain(..buffer.start);
            buffer.scanned -= buffer.start;
            buffer.start = 0;
        }
        buffer.held.extend_from_slice(self.chunk);
    }
}

impl LineBuffer {
    fn clear(&mut self) {
        self.held = Vec::new();
        self.start = 0;
        self.scanned = 0;
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = Option<Vec<u8>>;

    fn owned(line: Line<'_>) -> Owned {
        match line {
            Line::Whole(line) => Some(line.to_vec()),
            Line::TooLong => None,
        }
    }

    /// What a plain reading of the whole stream gives.
    fn reference(stream: &[u8], max: usize) -> Vec<Owned> {
        let mut parts: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        let rest = parts.pop().unwrap();
        let mut lines: Vec<Owned> = parts
            .into_iter()
            .filter(|line| line.len() > max || !without_cr(line).is_empty())
            .map(|line| (line.len() <= max).then(|| without_cr(line).to_vec()))
            .collect();
        if rest.len() > max {
            lines.push(None);
        }
        lines
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_stream_is_cut(
            stream in prop::collection::vec(prop_oneof![5 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(b'\r')], 0..200),
            cuts in prop::collection::vec((0usize..30, 0usize..4), 0..100),
            max in 1usize..20,
        ) {
            let mut buffer = LineBuffer::new(max);
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            for (cut, take) in cuts {
                // Only some of the lines are taken, and the others asked for later with an empty chunk.
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                let mut lines = buffer.lines(chunk);
                for _ in 0..take {
                    seen.extend(lines.next().map(owned));
                }
                drop(lines);
                let mut lines = buffer.lines(&[]);
                while let Some(line) = lines.next() {
                    seen.push(owned(line));
                }
                drop(lines);
                prop_assert!(buffer.held.len() <= max);
            }
            let mut lines = buffer.lines(rest);
            while let Some(line) = lines.next() {
                seen.push(owned(line));
            }
            drop(lines);
            prop_assert_eq!(seen, reference(&stream, max));
        }
    }

    #[test]
    fn a_buffer_between_lines_owns_no_memory() {
        let mut buffer = LineBuffer::default();
        for chunk in [&b"{\"id\""[..], b":1}\n"] {
            let mut lines = buffer.lines(chunk);
            while lines.next().is_some() {}
        }
        assert!(buffer.is_empty());
        assert_eq!(buffer.held.capacity(), 0);
    }

    #[test]
    fn a_line_of_the_greatest_length_passes_and_one_byte_more_does_not() {
        for (length, passes) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            let mut stream = vec![b'a'; length];
            stream.push(b'\n');
            let mut buffer = LineBuffer::default();
            assert_eq!(
                buffer.lines(&stream).next().map(owned),
                Some(passes.then(|| vec![b'a'; length]))
            );
        }
    }
}
