-- What the buyer's purse says to PostgreSQL in a way of its own.

-- name: lock
-- One writer at a time in this schema; whoever comes next sees what was committed, because its next statement begins then.
SELECT pg_advisory_xact_lock(hashtext('farebox purse'), hashtext(current_schema()));
