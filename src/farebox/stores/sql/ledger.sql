-- Every statement of the seller's ledger. Each move is one conditional statement: its WHERE is the guard, and the row it
-- returns says who won. They mean the same in SQLite and in PostgreSQL.

-- name: open_payment
-- The hash is unique; only the very same invoice may be said again, which changes nothing.
INSERT INTO payments (
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms
) VALUES (
    :payment_hash, 'open', :price_msat, :digest, :resource, :client, :invoice, :created_at_ms, :expires_at_ms
)
ON CONFLICT (payment_hash) DO UPDATE
SET created_at_ms = excluded.created_at_ms
WHERE payments.invoice = excluded.invoice
    AND payments.digest = excluded.digest
    AND payments.client = excluded.client
    AND payments.price_msat = excluded.price_msat
RETURNING payment_id;

-- name: reusable_payment
-- The same caller, request and price, unpaid, with more than half its time left: what remains is more than what is gone.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms
FROM payments
WHERE state = 'open'
    AND client = :client
    AND digest = :digest
    AND price_msat = :price_msat
    AND expires_at_ms - :now_ms > :now_ms - created_at_ms
ORDER BY expires_at_ms DESC
LIMIT 1;

-- name: find_payment
-- No guard: a row is what it is.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms
FROM payments
WHERE payment_hash = :payment_hash;

-- name: recent_payments
-- No guard: newest first.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms
FROM payments
ORDER BY created_at_ms DESC, payment_hash
LIMIT :most;

-- name: settle
-- Only what was never settled settles, so a duplicate does nothing; less than the price funds nothing.
UPDATE payments
SET state = 'funded', received_msat = :received_msat, settled_at_ms = :now_ms
WHERE payment_hash = :payment_hash AND state IN ('open', 'expired') AND price_msat <= :received_msat
RETURNING payment_id, received_msat;

-- name: settle_proven
-- As above; a preimage proves that its price, and does not say whether more, was paid.
UPDATE payments
SET state = 'funded', received_msat = price_msat, settled_at_ms = :now_ms
WHERE payment_hash = :payment_hash AND state IN ('open', 'expired')
RETURNING payment_id, received_msat;

-- name: expire
-- Only unpaid invoices, and only when no payment can be on its way to them any more.
UPDATE payments
SET state = 'expired'
WHERE state = 'open' AND expires_at_ms < :before_ms
RETURNING payment_hash;

-- name: claim
-- Funded, for this request, with a price left, nobody else's live hold, and attempts to spare: of any number of callers
-- at once exactly one finds it so. A hold that lapsed may have been a call that ran, so it is taken over only where that
-- may run again.
UPDATE payments
SET held_msat = price_msat, lease_until_ms = :lease_until_ms, attempts = attempts + 1, epoch = epoch + 1
WHERE payment_hash = :payment_hash
    AND state = 'funded'
    AND digest = :digest
    AND received_msat - captured_msat >= price_msat
    AND (lease_until_ms IS NULL OR (:rerun AND lease_until_ms <= :now_ms))
    AND attempts < :most_attempts
RETURNING payment_id, epoch, attempts, price_msat, received_msat;

-- name: claim_proven
-- As above, and a payment that was never settled is settled by the proof, for its price, in the same statement.
UPDATE payments
SET
    state = 'funded',
    received_msat = CASE WHEN state = 'funded' THEN received_msat ELSE price_msat END,
    settled_at_ms = COALESCE(settled_at_ms, :now_ms),
    held_msat = price_msat,
    lease_until_ms = :lease_until_ms,
    attempts = attempts + 1,
    epoch = epoch + 1
WHERE payment_hash = :payment_hash
    AND (state IN ('open', 'expired') OR (state = 'funded' AND received_msat - captured_msat >= price_msat))
    AND digest = :digest
    AND (lease_until_ms IS NULL OR (:rerun AND lease_until_ms <= :now_ms))
    AND attempts < :most_attempts
RETURNING payment_id, epoch, attempts, price_msat, received_msat;

-- name: give_up_exhausted
-- The last attempt, or one of a call that must not run twice, ended without an answer and without a word (its lease ran
-- out): nobody may try again, so the payer is owed the rest.
UPDATE payments
SET state = 'credit', held_msat = 0, lease_until_ms = NULL
WHERE payment_hash = :payment_hash
    AND state = 'funded'
    AND digest = :digest
    AND (lease_until_ms IS NULL OR lease_until_ms <= :now_ms)
    AND (attempts >= :most_attempts OR (lease_until_ms IS NOT NULL AND NOT :rerun))
RETURNING payment_id, epoch, received_msat - captured_msat;

-- name: hold_draw
-- No guard: the claim was won; the index allows one held draw for each payment.
INSERT INTO draws (payment_id, epoch, amount_msat, state, held_at_ms, claim)
VALUES (:payment_id, :epoch, :amount_msat, 'held', :now_ms, :claim);

-- name: own_claim
-- A claim that was won although nobody could tell: its draw has the claim's own name and is still held.
UPDATE payments
SET lease_until_ms = :lease_until_ms
WHERE payment_hash = :payment_hash
    AND held_msat > 0
    AND EXISTS (
        SELECT 1
        FROM draws
        WHERE draws.payment_id = payments.payment_id AND draws.epoch = payments.epoch AND draws.claim = :claim
    )
RETURNING epoch, attempts, held_msat;

-- name: renew
-- The epoch is still the payment's newest and its draw neither captured nor released.
UPDATE payments
SET lease_until_ms = :lease_until_ms
WHERE payment_hash = :payment_hash AND epoch = :epoch AND held_msat > 0
RETURNING epoch;

-- name: capture
-- The epoch is still the payment's newest and its draw neither captured nor released; a lease that ran out without a
-- newer claim is no reason to lose an answer. What is left over is a tab for another call, or too little for one.
UPDATE payments
SET
    captured_msat = captured_msat + held_msat,
    held_msat = 0,
    lease_until_ms = NULL,
    attempts = CASE WHEN received_msat - captured_msat - held_msat < price_msat THEN attempts ELSE 0 END,
    state = CASE WHEN received_msat - captured_msat - held_msat < price_msat THEN 'spent' ELSE 'funded' END
WHERE payment_hash = :payment_hash AND epoch = :epoch AND held_msat > 0
RETURNING payment_id, state, received_msat - captured_msat;

-- name: own_capture
-- A capture that was kept although nobody could tell: its draw has the capture's own name.
SELECT draws.epoch
FROM payments
JOIN draws ON draws.payment_id = payments.payment_id
WHERE payments.payment_hash = :payment_hash AND draws.epoch = :epoch AND draws.state = 'captured' AND draws.claim = :claim;

-- name: release
-- The epoch is still the payment's newest and its draw neither captured nor released; after the last attempt the payer is
-- owed the rest. An attempt in which nothing ran is not counted.
UPDATE payments
SET
    held_msat = 0,
    lease_until_ms = NULL,
    attempts = CASE WHEN :ran THEN attempts ELSE attempts - 1 END,
    state = CASE WHEN NOT :ran THEN 'funded' WHEN attempts >= :most_attempts THEN 'credit' ELSE 'funded' END
WHERE payment_hash = :payment_hash AND epoch = :epoch AND held_msat > 0
RETURNING payment_id, state, received_msat - captured_msat;

-- name: capture_draw
-- The held draw of this epoch, which the capture has just been granted; it takes the capture's name.
UPDATE draws
SET state = 'captured', ended_at_ms = :now_ms, claim = :claim
WHERE payment_id = :payment_id AND epoch = :epoch AND state = 'held';

-- name: end_draw
-- Only a held draw ends, and only once; so the one before a new claim ends only if it had lapsed.
UPDATE draws
SET state = :state, ended_at_ms = :now_ms
WHERE payment_id = :payment_id AND epoch = :epoch AND state = 'held';

-- name: keep_answer
-- No guard: the primary key refuses a second answer to one draw.
INSERT INTO answers (payment_id, epoch, status, headers_json, body, kept_at_ms)
VALUES (:payment_id, :epoch, :status, :headers_json, :body, :now_ms);

-- name: find_answer
-- Only while it is promised to be kept, whether or not it has been forgotten yet; the newest where there are several.
SELECT status, headers_json, body
FROM answers
JOIN payments ON payments.payment_id = answers.payment_id
WHERE payment_hash = :payment_hash AND kept_at_ms > :before_ms
ORDER BY answers.epoch DESC
LIMIT 1;

-- name: forget_answers
-- Only what is no longer promised to be kept.
DELETE FROM answers
WHERE kept_at_ms <= :before_ms;

-- name: enter
-- No guard: the primary key refuses to move an amount twice for one reason.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
VALUES (:payment_id, :epoch, :from_account, :to_account, :amount_msat, :now_ms);

-- name: enter_received
-- What came in, once: a payment settles once, and the primary key makes saying it again do nothing.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
VALUES (:payment_id, 0, 'received', 'held', :received_msat, :now_ms)
ON CONFLICT (payment_id, epoch, from_account, to_account) DO NOTHING;

-- name: taken_slots
-- No guard: it only proposes slots; taking one has its own guard.
SELECT slot, frees_at_ms
FROM free_calls
WHERE bucket = :bucket AND frees_at_ms > :now_ms;

-- name: take_slot
-- A slot is new or has become free; of any number of callers at once exactly one takes it.
INSERT INTO free_calls (bucket, slot, frees_at_ms)
VALUES (:bucket, :slot, :frees_at_ms)
ON CONFLICT (bucket, slot) DO UPDATE
SET frees_at_ms = excluded.frees_at_ms
WHERE free_calls.frees_at_ms <= :now_ms
RETURNING slot;

-- name: forget_free_calls
-- Only slots that are free again.
DELETE FROM free_calls
WHERE frees_at_ms <= :now_ms;

-- name: keep_salt
-- The first one stays.
INSERT INTO salts (purpose, salt)
VALUES (:purpose, :salt)
ON CONFLICT (purpose) DO NOTHING;

-- name: find_salt
-- No guard.
SELECT salt
FROM salts
WHERE purpose = :purpose;

-- name: received
-- What came in, by the rows of the payments.
SELECT CAST(COALESCE(SUM(received_msat), 0) AS BIGINT)
FROM payments;

-- name: accounts
-- Where it went, by the entries: what was given to an account less what was taken from it.
SELECT account, CAST(SUM(amount_msat) AS BIGINT)
FROM (
    SELECT to_account AS account, amount_msat FROM entries
    UNION ALL
    SELECT from_account AS account, -amount_msat AS amount_msat FROM entries
) AS legs
GROUP BY account;

-- name: audit
-- Every payment whose row, draws, entries and answers do not tell one story.
WITH booked AS (
    SELECT
        payment_id,
        SUM(CASE WHEN from_account = 'received' THEN amount_msat ELSE 0 END) AS received_msat,
        SUM(CASE WHEN to_account = 'held' THEN amount_msat WHEN from_account = 'held' THEN -amount_msat ELSE 0 END)
            AS held_msat,
        SUM(CASE WHEN to_account = 'earned' THEN amount_msat ELSE 0 END) AS earned_msat,
        SUM(CASE WHEN to_account = 'credit' THEN amount_msat WHEN from_account = 'credit' THEN -amount_msat ELSE 0 END)
            AS credit_msat
    FROM entries
    GROUP BY payment_id
),
drawn AS (
    SELECT
        payment_id,
        SUM(CASE WHEN state = 'held' THEN amount_msat ELSE 0 END) AS held_msat,
        SUM(CASE WHEN state = 'captured' THEN amount_msat ELSE 0 END) AS captured_msat,
        MAX(epoch) AS epoch
    FROM draws
    GROUP BY payment_id
),
told AS (
    SELECT
        payments.payment_hash,
        payments.state,
        payments.received_msat,
        payments.held_msat,
        payments.captured_msat,
        payments.epoch,
        payments.received_msat - payments.captured_msat AS left_msat,
        COALESCE(booked.received_msat, 0) AS booked_received_msat,
        COALESCE(booked.held_msat, 0) AS booked_held_msat,
        COALESCE(booked.earned_msat, 0) AS booked_earned_msat,
        COALESCE(booked.credit_msat, 0) AS booked_credit_msat,
        COALESCE(drawn.held_msat, 0) AS drawn_held_msat,
        COALESCE(drawn.captured_msat, 0) AS drawn_captured_msat,
        COALESCE(drawn.epoch, 0) AS drawn_epoch
    FROM payments
    LEFT JOIN booked ON booked.payment_id = payments.payment_id
    LEFT JOIN drawn ON drawn.payment_id = payments.payment_id
)
SELECT payment_hash, 'received by its row, and by the entries', received_msat, booked_received_msat
FROM told
WHERE received_msat <> booked_received_msat
UNION ALL
SELECT payment_hash, 'captured by its row, and earned by the entries', captured_msat, booked_earned_msat
FROM told
WHERE captured_msat <> booked_earned_msat
UNION ALL
SELECT payment_hash, 'captured by its row, and by its draws', captured_msat, drawn_captured_msat
FROM told
WHERE captured_msat <> drawn_captured_msat
UNION ALL
SELECT payment_hash, 'held by its row, and by its draws', held_msat, drawn_held_msat
FROM told
WHERE held_msat <> drawn_held_msat
UNION ALL
SELECT
    payment_hash,
    'left on its open tab, and by the entries',
    CASE WHEN state = 'funded' THEN left_msat ELSE 0 END,
    booked_held_msat
FROM told
WHERE booked_held_msat <> CASE WHEN state = 'funded' THEN left_msat ELSE 0 END
UNION ALL
SELECT
    payment_hash,
    'owed to its payer, and by the entries',
    CASE WHEN state IN ('spent', 'credit') THEN left_msat ELSE 0 END,
    booked_credit_msat
FROM told
WHERE booked_credit_msat <> CASE WHEN state IN ('spent', 'credit') THEN left_msat ELSE 0 END
UNION ALL
SELECT payment_hash, 'epoch of its row, and of its newest draw', epoch, drawn_epoch
FROM told
WHERE epoch <> drawn_epoch
UNION ALL
SELECT payments.payment_hash, 'epoch with an answer, and of no captured draw', answers.epoch, 0
FROM answers
LEFT JOIN payments ON payments.payment_id = answers.payment_id
LEFT JOIN draws
    ON draws.payment_id = answers.payment_id AND draws.epoch = answers.epoch AND draws.state = 'captured'
WHERE draws.epoch IS NULL;
