-- What PostgreSQL says in a way of its own: statements of ledger.sql under the same names, asked once for many callers
-- (group commit), and housekeeping that waits for nobody. Each caller has a place, from one, and no two of them ask about
-- the same payment. Guards and sentences are those of ledger.sql; a test compares them.

-- name: lock
-- No guard: gateways that are asked about the same payments wait for one another here, in one order.
SELECT payment_id
FROM payments
WHERE payment_hash = ANY (ARRAY(SELECT asked.about FROM unnest(CAST(:about AS BYTEA[])) AS asked (about)))
ORDER BY payment_hash
FOR NO KEY UPDATE;

-- name: find_payment
-- For many.
SELECT
    asked.place,
    payments.payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
FROM unnest(CAST(:payment_hash AS BYTEA[])) WITH ORDINALITY AS asked (payment_hash, place), payments
WHERE payments.payment_hash = asked.payment_hash;

-- name: claim
-- For many.
UPDATE payments
SET held_msat = price_msat, lease_until_ms = asked.lease_until_ms, attempts = attempts + 1, epoch = epoch + 1
FROM unnest(
    CAST(:payment_hash AS BYTEA[]), CAST(:digest AS BYTEA[]), CAST(:now_ms AS BIGINT[]),
    CAST(:lease_until_ms AS BIGINT[]), CAST(:most_attempts AS BIGINT[]), CAST(:rerun AS BOOLEAN[])
) WITH ORDINALITY AS asked (payment_hash, digest, now_ms, lease_until_ms, most_attempts, rerun, place)
WHERE payments.payment_hash = asked.payment_hash
    AND state = 'funded'
    AND payments.digest = asked.digest
    AND (payments.lease_until_ms IS NULL OR (asked.rerun AND payments.lease_until_ms <= asked.now_ms))
    AND attempts < asked.most_attempts
    AND NOT EXISTS (
        SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id AND escrows.state IN ('running', 'ready')
    )
RETURNING asked.place, payment_id, epoch, attempts, price_msat, received_msat;

-- name: claim_proven
-- For many.
UPDATE payments
SET
    state = 'funded',
    received_msat = CASE WHEN state = 'funded' THEN received_msat ELSE price_msat END,
    settled_at_ms = COALESCE(settled_at_ms, asked.now_ms),
    held_msat = price_msat,
    lease_until_ms = asked.lease_until_ms,
    attempts = attempts + 1,
    epoch = epoch + 1
FROM unnest(
    CAST(:payment_hash AS BYTEA[]), CAST(:digest AS BYTEA[]), CAST(:now_ms AS BIGINT[]),
    CAST(:lease_until_ms AS BIGINT[]), CAST(:most_attempts AS BIGINT[]), CAST(:rerun AS BOOLEAN[])
) WITH ORDINALITY AS asked (payment_hash, digest, now_ms, lease_until_ms, most_attempts, rerun, place)
WHERE payments.payment_hash = asked.payment_hash
    AND (
        (
            state IN ('open', 'expired')
            AND NOT EXISTS (SELECT 1 FROM strays WHERE strays.payment_hash = payments.payment_hash)
        )
        OR state = 'funded'
    )
    AND payments.digest = asked.digest
    AND (payments.lease_until_ms IS NULL OR (asked.rerun AND payments.lease_until_ms <= asked.now_ms))
    AND attempts < asked.most_attempts
    AND NOT EXISTS (
        SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id AND escrows.state IN ('running', 'ready')
    )
RETURNING asked.place, payment_id, epoch, attempts, price_msat, received_msat;

-- name: hold_draw
-- For many.
INSERT INTO draws (payment_id, epoch, amount_msat, state, held_at_ms, claim)
SELECT asked.payment_id, asked.epoch, asked.amount_msat, 'held', asked.now_ms, asked.claim
FROM unnest(
    CAST(:payment_id AS BIGINT[]), CAST(:epoch AS BIGINT[]), CAST(:amount_msat AS BIGINT[]), CAST(:now_ms AS BIGINT[]),
    CAST(:claim AS BYTEA[])
) AS asked (payment_id, epoch, amount_msat, now_ms, claim);

-- name: capture
-- For many.
UPDATE payments
SET
    captured_msat = captured_msat + held_msat,
    held_msat = 0,
    lease_until_ms = NULL,
    attempts = CASE WHEN received_msat - captured_msat - held_msat < price_msat THEN attempts ELSE 0 END,
    state = CASE WHEN received_msat - captured_msat - held_msat < price_msat THEN 'spent' ELSE 'funded' END
FROM unnest(CAST(:payment_hash AS BYTEA[]), CAST(:epoch AS BIGINT[]))
WITH ORDINALITY AS asked (payment_hash, epoch, place)
WHERE payments.payment_hash = asked.payment_hash AND payments.epoch = asked.epoch AND held_msat > 0
RETURNING asked.place, payment_id, state, received_msat - captured_msat;

-- name: capture_draw
-- For many.
UPDATE draws
SET state = 'captured', ended_at_ms = asked.now_ms, claim = asked.claim
FROM unnest(
    CAST(:payment_id AS BIGINT[]), CAST(:epoch AS BIGINT[]), CAST(:now_ms AS BIGINT[]), CAST(:claim AS BYTEA[])
) AS asked (payment_id, epoch, now_ms, claim)
WHERE draws.payment_id = asked.payment_id AND draws.epoch = asked.epoch AND state = 'held';

-- name: keep_answer
-- For many.
INSERT INTO answers (payment_id, epoch, status, headers_json, body, kept_at_ms)
SELECT asked.payment_id, asked.epoch, asked.status, asked.headers_json, asked.body, asked.now_ms
FROM unnest(
    CAST(:payment_id AS BIGINT[]), CAST(:epoch AS BIGINT[]), CAST(:status AS BIGINT[]), CAST(:headers_json AS TEXT[]),
    CAST(:body AS BYTEA[]), CAST(:now_ms AS BIGINT[])
) AS asked (payment_id, epoch, status, headers_json, body, now_ms);

-- name: enter
-- For many.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
SELECT
    asked.payment_id, asked.epoch, asked.from_account, asked.to_account, asked.amount_msat, asked.now_ms
FROM unnest(
    CAST(:payment_id AS BIGINT[]), CAST(:epoch AS BIGINT[]), CAST(:from_account AS TEXT[]), CAST(:to_account AS TEXT[]),
    CAST(:amount_msat AS BIGINT[]), CAST(:now_ms AS BIGINT[])
) AS asked (payment_id, epoch, from_account, to_account, amount_msat, now_ms);

-- name: enter_received
-- For many.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
SELECT asked.payment_id, 0, 'received', 'held', asked.received_msat, asked.now_ms
FROM unnest(CAST(:payment_id AS BIGINT[]), CAST(:received_msat AS BIGINT[]), CAST(:now_ms AS BIGINT[]))
AS asked (payment_id, received_msat, now_ms)
ON CONFLICT (payment_id, epoch, from_account, to_account) DO NOTHING;

-- name: expire
-- What somebody else has locked is left to the next time.
UPDATE payments
SET state = 'expired'
WHERE payment_id = ANY (ARRAY(
    SELECT payment_id
    FROM payments
    WHERE state = 'open' AND expires_at_ms < :before_ms
    ORDER BY expires_at_ms
    LIMIT :most
    FOR UPDATE SKIP LOCKED
))
RETURNING payment_id;

-- name: forget_unpaid
-- As above.
DELETE FROM payments
WHERE payment_id = ANY (ARRAY(
    SELECT payment_id
    FROM payments
    WHERE state = 'expired'
        AND expires_at_ms < :before_ms
        AND NOT EXISTS (SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id)
    ORDER BY expires_at_ms
    LIMIT :most
    FOR UPDATE SKIP LOCKED
))
RETURNING payment_id;

-- name: unclaimed
-- As above.
SELECT payment_id
FROM payments
WHERE state = 'funded'
    AND settled_at_ms <= :before_ms
    AND expires_at_ms <= :before_ms
    AND (lease_until_ms IS NULL OR lease_until_ms <= :now_ms)
ORDER BY settled_at_ms, payment_id
LIMIT :most
FOR UPDATE SKIP LOCKED;

-- name: due_payments
-- PostgreSQL reads a list in its own way.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
FROM payments
WHERE state = 'open'
    AND expires_at_ms <= :until_ms
    AND (expires_at_ms > :after_ms OR (expires_at_ms = :after_ms AND payment_hash > :after_hash))
    AND receiver NOT IN (SELECT json_array_elements_text(CAST(:others_json AS json)))
ORDER BY expires_at_ms, payment_hash
LIMIT :most;

-- name: oldest_unsettled
-- As above.
SELECT MIN(created_at_ms)
FROM payments
WHERE state IN ('open', 'expired')
    AND receiver NOT IN (SELECT json_array_elements_text(CAST(:others_json AS json)));
