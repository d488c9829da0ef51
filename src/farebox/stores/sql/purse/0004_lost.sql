-- What is served has no date of not being served any more; what has one, and is no longer asked for, is lost.
UPDATE purchases SET undelivered_at_ms = NULL WHERE served = 1;
DROP INDEX purchases_undelivered;
CREATE INDEX purchases_undelivered ON purchases (undelivered_at_ms) WHERE undelivered_at_ms IS NOT NULL;
