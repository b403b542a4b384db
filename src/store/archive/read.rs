//! Reads an archive, and believes nothing.

use std::io::{BufRead, Read};

use ring::digest::{Context, SHA256};
use serde::Deserialize;

use super::line::{Header, Line, Trailer};
use super::write::hex;
use super::{Error, FORMAT, Record, VERSION};
use crate::protocol::record::Id;
use crate::store::transfer::Counts;

/// Longer lines are refused: no object comes near it.
const LINE_BYTES_MAX: usize = 1 << 30;

/// An archive that is being read.
pub struct Reader<R> {
    input: R,
    /// Of the lines before the one that was read last.
    digest: Context,
    header: Header,
    counts: Counts,
    /// The id of the line before, and whether it was a schedule.
    last: Option<(bool, Id)>,
    line: Vec<u8>,
    /// Of the line that was read last, from 1.
    number: u64,
    is_over: bool,
}

/// As much of a header as every version has.
#[derive(Deserialize)]
struct AnyHeader {
    header: AnyVersion,
}

#[derive(Deserialize)]
struct AnyVersion {
    format: String,
    version: u32,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// When it is not the first line of an archive that this release reads.
    pub fn begin(input: R) -> Result<Self, Error> {
        let mut reader = Reader {
            input,
            digest: Context::new(&SHA256),
            header: Header {
                format: String::new(),
                version: 0,
                schema: 0,
                promises: 0,
                schedules: 0,
            },
            counts: Counts::default(),
            last: None,
            line: Vec::new(),
            number: 0,
            is_over: false,
        };
        let any = match reader.read_line() {
            Ok(true) => serde_json::from_slice::<AnyHeader>(&reader.line).ok(),
            Ok(false) => None,
            Err(error) => return Err(error),
        };
        let Some(AnyHeader { header: any }) = any.filter(|any| any.header.format == FORMAT) else {
            reader.number = 1;
            return Err(reader.broken("this is not a resonate archive".to_owned()));
        };
        if any.version > VERSION {
            return Err(reader.broken(format!(
                "the archive has version {}; this resonate reads versions up to {VERSION}: use a \
                 newer one",
                any.version
            )));
        }
        match reader.parse()? {
            Line::Header(header) => reader.header = header,
            _ => return Err(reader.broken("this is not a resonate archive".to_owned())),
        }
        Ok(reader)
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How much was read so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How long the line was that was read last.
    pub fn line_bytes(&self) -> usize {
        self.line.len()
    }

    /// An error of the line that was read last.
    pub fn broken(&self, reason: String) -> Error {
        Error::Broken {
            line: self.number,
            reason,
        }
    }

    /// The next promise or schedule; none once the archive has turned out to be whole.
    ///
    /// # Errors
    /// When the line is not as it was written, or when the last one says so of those before.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator would go on after an error"
    )]
    pub fn next(&mut self) -> Result<Option<Record>, Error> {
        if self.is_over {
            return Ok(None);
        }
        if !self.read_line()? {
            self.number += 1;
            return Err(
                self.broken("it ends without its last line: it is not all there".to_owned())
            );
        }
        match self.parse()? {
            Line::Promise(line) => {
                let object = Box::new((*line).into());
                self.counts.add(&object);
                self.follow(false, object.promise.id.clone())?;
                Ok(Some(Record::Object(object)))
            }
            Line::Schedule(line) => {
                let schedule: Box<crate::protocol::record::Schedule> = Box::new((*line).into());
                self.counts.schedules += 1;
                self.follow(true, schedule.id.clone())?;
                Ok(Some(Record::Schedule(schedule)))
            }
            Line::Header(_) => Err(self.broken("a header after the first line".to_owned())),
            Line::Trailer(trailer) => {
                self.end(&trailer)?;
                Ok(None)
            }
        }
    }

    /// Promises come before schedules, and both by their ids.
    fn follow(&mut self, is_schedule: bool, id: Id) -> Result<(), Error> {
        let this = (is_schedule, id);
        if self.last.as_ref().is_some_and(|last| *last >= this) {
            return Err(self.broken(format!("{:?} is twice there, or not in its place", this.1)));
        }
        self.last = Some(this);
        Ok(())
    }

    fn end(&mut self, trailer: &Trailer) -> Result<(), Error> {
        let sha256 = hex(self.digest.clone().finish().as_ref());
        if sha256 != trailer.sha256 {
            return Err(self.broken(format!(
                "its checksum is not that of the lines before it: one of lines 1 to {} was altered, \
                 or this one",
                self.number - 1
            )));
        }
        let announced = (self.header.promises, self.header.schedules);
        if trailer.counts != self.counts
            || announced != (self.counts.promises, self.counts.schedules)
        {
            return Err(self.broken("its counts are not those of the lines before it".to_owned()));
        }
        if self.read_line()? {
            return Err(self.broken("something follows the last line".to_owned()));
        }
        self.is_over = true;
        Ok(())
    }

    /// Reads the next line, without its end, if there is one.
    fn read_line(&mut self) -> Result<bool, Error> {
        // The line before is now one of those that the last one speaks for.
        if self.number > 0 {
            self.digest.update(&self.line);
            self.digest.update(b"\n");
        }
        self.line.clear();
        let most = LINE_BYTES_MAX as u64;
        let read = (&mut self.input)
            .take(most)
            .read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            return Err(self.broken("it has no end: the archive is not all there".to_owned()));
        }
        Ok(true)
    }

    fn parse(&self) -> Result<Line, Error> {
        serde_json::from_slice(&self.line).map_err(|error| {
            let hint = match error.to_string().starts_with("unknown ") {
                true => "; a newer resonate has written it, or it was altered",
                false => "",
            };
            // All of it is in one line: serde's is 1.
            let text = error.to_string();
            let text = text.replace(" at line 1 column ", " at column ");
            self.broken(format!("{text}{hint}"))
        })
    }
}
