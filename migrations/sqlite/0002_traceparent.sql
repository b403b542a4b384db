-- The trace that a task belongs to: the W3C traceparent of the request that created it, and after a space the
-- tracestate, if that came with one. Null where there was none.
ALTER TABLE tasks ADD COLUMN traceparent TEXT;
