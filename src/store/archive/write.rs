//! Writes an archive.

use std::io::Write;

use ring::digest::{Context, SHA256};

use super::line::{Header, Line, PromiseLine, ScheduleLine, Trailer};
use super::{Error, FORMAT, VERSION};
use crate::machine::object::Object;
use crate::protocol::record::Schedule;
use crate::store;
use crate::store::transfer::Counts;

/// An archive that is being written. It is whole once [`Writer::end`] has returned.
pub struct Writer<W> {
    output: W,
    /// Of all that was written.
    digest: Context,
    announced: Counts,
    written: Counts,
    /// Kept for its room.
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the first line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(output: W, schema: i64, counts: &Counts) -> Result<Self, Error> {
        let mut writer = Writer {
            output,
            digest: Context::new(&SHA256),
            announced: *counts,
            written: Counts::default(),
            line: Vec::new(),
        };
        writer.write(
            "header",
            &Line::Header(Header {
                format: FORMAT.to_owned(),
                version: VERSION,
                schema,
                promises: counts.promises,
                schedules: counts.schedules,
            }),
        )?;
        Ok(writer)
    }

    /// Writes the line of a promise.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn object(&mut self, object: &Object) -> Result<(), Error> {
        self.written.add(object);
        let line = Line::Promise(Box::new(PromiseLine::from(object)));
        self.write(&object.promise.id, &line)
    }

    /// Writes the line of a schedule.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn schedule(&mut self, schedule: &Schedule) -> Result<(), Error> {
        self.written.schedules += 1;
        let line = Line::Schedule(Box::new(ScheduleLine::from(schedule)));
        self.write(&schedule.id, &line)
    }

    /// Writes the last line. Answers how much the archive holds.
    ///
    /// # Errors
    /// When it cannot be written, or when something else was written than was announced.
    pub fn end(mut self) -> Result<Counts, Error> {
        self.written.expect(&self.announced)?;
        let sha256 = hex(self.digest.clone().finish().as_ref());
        self.write(
            "trailer",
            &Line::Trailer(Trailer {
                counts: self.written,
                sha256,
            }),
        )?;
        self.output.flush()?;
        Ok(self.written)
    }

    fn write(&mut self, id: &str, line: &Line) -> Result<(), Error> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(std::io::Error::from)?;
        // Payloads are written as they are stored: in one line, by any release.
        if self.line.contains(&b'\n') {
            let message = format!("param or value of {id:?}: a line break outside a string");
            return Err(store::Error::Corrupt(message).into());
        }
        self.line.push(b'\n');
        self.digest.update(&self.line);
        self.output.write_all(&self.line)?;
        Ok(())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
