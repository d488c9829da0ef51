-- Every statement of the buyer's purse. Each move is one conditional statement: its WHERE is the guard.

-- name: hold
-- Within every window: nothing is written when what a window counts and what is asked come to more than its limit. What
-- is held counts however old it is. `:windows` stands for a list of (since_ms, limit_msat) rows, one for each window; a
-- window per call counts nothing but this call, so its row begins after all time.
WITH windows (since_ms, limit_msat) AS (VALUES :windows)
INSERT INTO purchases (
    payment_hash, attempt, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    held_at_ms, counted_msat, counted_at_ms
)
SELECT
    :payment_hash, (SELECT COUNT(*) FROM purchases WHERE payment_hash = :payment_hash), :request_digest, :origin, :url, :amount_msat, :fee_limit_msat, :challenge_json,
    :invoice_expires_at_ms, 'held', :now_ms, :asked_msat, :now_ms
WHERE NOT EXISTS (
    SELECT 1
    FROM windows
    WHERE windows.limit_msat < :asked_msat + CASE WHEN windows.since_ms = :per_call THEN 0 ELSE
        (SELECT COALESCE(SUM(counted_msat), 0) FROM purchases WHERE counted_at_ms > windows.since_ms)
        + (SELECT COALESCE(SUM(counted_msat), 0) FROM purchases WHERE state = 'held' AND counted_at_ms <= windows.since_ms)
    END
)
RETURNING payment_hash;

-- name: spent
-- What counts since an instant, and everything still held from before it.
SELECT
    (SELECT COALESCE(SUM(counted_msat), 0) FROM purchases WHERE counted_at_ms > :since_ms)
    + (SELECT COALESCE(SUM(counted_msat), 0) FROM purchases WHERE state = 'held' AND counted_at_ms <= :since_ms);

-- name: newest
-- The latest instant the purse has seen: its time never runs backwards.
SELECT COALESCE(MAX(counted_at_ms), 0)
FROM purchases;

-- name: find
-- No guard: the newest attempt, which is the only one that can be held or captured.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt
FROM purchases
WHERE payment_hash = :payment_hash
ORDER BY attempt DESC
LIMIT 1;

-- name: unfinished
-- Not known to have failed, and no paid answer arrived.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt
FROM purchases
WHERE served = 0 AND state <> 'released'
ORDER BY held_at_ms, payment_hash;

-- name: unfinished_of_request
-- As above, of one request.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt
FROM purchases
WHERE served = 0 AND state <> 'released' AND request_digest = :request_digest
ORDER BY held_at_ms, payment_hash;

-- name: history
-- No guard: newest first.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt
FROM purchases
ORDER BY held_at_ms DESC, payment_hash
LIMIT :most;

-- name: capture
-- Only what is held can turn out to be paid; it counts with its true fee from now on.
UPDATE purchases
SET
    state = 'captured',
    preimage = :preimage,
    fee_msat = :fee_msat,
    counted_msat = amount_msat + :fee_msat,
    counted_at_ms = :now_ms
WHERE payment_hash = :payment_hash AND state = 'held'
RETURNING payment_hash;

-- name: release
-- Only what is held can turn out not to be paid; it counts no more.
UPDATE purchases
SET state = 'released', reason = :reason, counted_msat = 0
WHERE payment_hash = :payment_hash AND state = 'held'
RETURNING payment_hash;

-- name: mark_kept
-- Only what was paid and not served can be kept for its call.
UPDATE purchases
SET reason = :reason
WHERE payment_hash = :payment_hash AND state = 'captured' AND served = 0
RETURNING payment_hash;

-- name: mark_served
-- Only what was paid can be served.
UPDATE purchases
SET served = 1
WHERE payment_hash = :payment_hash AND state = 'captured'
RETURNING payment_hash;
