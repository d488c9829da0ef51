-- Every statement of the seller's ledger. Each move is one conditional statement: its WHERE is the guard, and the row it
-- returns says who won. They mean the same in SQLite and in PostgreSQL.

-- name: open_payment
-- The hash is unique; only the very same invoice may be said again, which changes nothing.
INSERT INTO payments (
    payment_hash, state, price_msat, digest, resource, client, subnet, invoice, created_at_ms, expires_at_ms, receiver
) VALUES (
    :payment_hash,
    'open',
    :price_msat,
    :digest,
    :resource,
    :client,
    :subnet,
    :invoice,
    :created_at_ms,
    :expires_at_ms,
    :receiver
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
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
FROM payments
WHERE state = 'open'
    AND client = :client
    AND digest = :digest
    AND price_msat = :price_msat
    AND expires_at_ms - :now_ms > :now_ms - created_at_ms
ORDER BY expires_at_ms DESC
LIMIT 1;

-- name: count_unpaid_of
-- What can still be paid, of one client and of the /48 around it; the invoice that is about to be opened does not count,
-- so that saying it again is not refused for itself.
SELECT
    (
        SELECT COUNT(*)
        FROM payments
        WHERE state = 'open' AND client = :client AND expires_at_ms > :now_ms AND payment_hash <> :payment_hash
    ),
    (
        SELECT COUNT(*)
        FROM payments
        WHERE state = 'open' AND subnet = :subnet AND expires_at_ms > :now_ms AND payment_hash <> :payment_hash
    );

-- name: count_unpaid
-- Every unpaid invoice that has not been called expired yet, whether or not it can still be paid: what there is to keep.
SELECT COUNT(*)
FROM payments
WHERE state = 'open';

-- name: find_payment
-- No guard: a row is what it is.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
FROM payments
WHERE payment_hash = :payment_hash;

-- name: recent_payments
-- No guard: newest first.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
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
-- As above; a preimage proves that its price, and does not say whether more, was paid. Where the node has said that it was
-- less, it proves nothing.
UPDATE payments
SET state = 'funded', received_msat = price_msat, settled_at_ms = :now_ms
WHERE payment_hash = :payment_hash
    AND state IN ('open', 'expired')
    AND NOT EXISTS (SELECT 1 FROM strays WHERE strays.payment_hash = payments.payment_hash)
RETURNING payment_id, received_msat;

-- name: expire
-- Only unpaid invoices, and only when no payment can be on its way to them any more; so many at a time, the oldest first.
-- Whoever chooses them has locked them (here the file, there the rows), so they are not looked at again.
UPDATE payments
SET state = 'expired'
WHERE payment_id IN (
    SELECT payment_id
    FROM payments
    WHERE state = 'open' AND expires_at_ms < :before_ms
    ORDER BY expires_at_ms
    LIMIT :most
)
RETURNING payment_id;

-- name: forget_unpaid
-- Only what expired, was never paid and is long past its time; so many at a time, the oldest first. What was ever paid is
-- in another state (a check of the table), and has entries that refer to it. The node may still hold what is in escrow.
DELETE FROM payments
WHERE payment_id IN (
    SELECT payment_id
    FROM payments
    WHERE state = 'expired'
        AND expires_at_ms < :before_ms
        AND NOT EXISTS (SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id)
    ORDER BY expires_at_ms
    LIMIT :most
)
RETURNING payment_id;

-- name: claim
-- Funded (so a price is left: a check of the table), for this request, nobody else's live hold, and attempts to spare: of
-- any number of callers at once exactly one finds it so. A hold that lapsed may have been a call that ran, so it is taken
-- over only where that may run again. What an escrow has bought runs, or has its answer already.
UPDATE payments
SET held_msat = price_msat, lease_until_ms = :lease_until_ms, attempts = attempts + 1, epoch = epoch + 1
WHERE payment_hash = :payment_hash
    AND state = 'funded'
    AND digest = :digest
    AND (lease_until_ms IS NULL OR (:rerun AND lease_until_ms <= :now_ms))
    AND attempts < :most_attempts
    AND NOT EXISTS (
        SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id AND escrows.state IN ('running', 'ready')
    )
RETURNING payment_id, epoch, attempts, price_msat, received_msat;

-- name: claim_proven
-- As above, and a payment that was never settled is settled by the proof, for its price, in the same statement; but not
-- where the node has said that less was paid.
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
    AND (
        (
            state IN ('open', 'expired')
            AND NOT EXISTS (SELECT 1 FROM strays WHERE strays.payment_hash = payments.payment_hash)
        )
        OR state = 'funded'
    )
    AND digest = :digest
    AND (lease_until_ms IS NULL OR (:rerun AND lease_until_ms <= :now_ms))
    AND attempts < :most_attempts
    AND NOT EXISTS (
        SELECT 1 FROM escrows WHERE escrows.payment_id = payments.payment_id AND escrows.state IN ('running', 'ready')
    )
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
-- No guard: the claim was won, and the draw before it has ended.
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
SELECT answers.epoch, status, headers_json, body
FROM answers
JOIN payments ON payments.payment_id = answers.payment_id
WHERE payment_hash = :payment_hash AND kept_at_ms > :before_ms
ORDER BY answers.epoch DESC
LIMIT 1;

-- name: forget_answers
-- Only what is no longer promised to be kept; so many at a time, the oldest first.
DELETE FROM answers
WHERE (payment_id, epoch) IN (
    SELECT payment_id, epoch
    FROM answers
    WHERE kept_at_ms <= :before_ms
    ORDER BY kept_at_ms
    LIMIT :most
)
RETURNING payment_id;

-- name: enter
-- No guard: the primary key refuses to move an amount twice for one reason.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
VALUES (:payment_id, :epoch, :from_account, :to_account, :amount_msat, :now_ms);

-- name: enter_received
-- What came in, once: a payment settles once, and the primary key makes saying it again do nothing.
INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms)
VALUES (:payment_id, 0, 'received', 'held', :received_msat, :now_ms)
ON CONFLICT (payment_id, epoch, from_account, to_account) DO NOTHING;

-- name: settle_surplus
-- More was received than a preimage proved: added once for each claim to a tab that is still open, and to the credit of
-- one that is spent when it is too little for another call. Nothing may have come in since the row was read. What is
-- owed already, or was told before the first claim, has an entry in the way.
UPDATE payments
SET received_msat = :received_msat
WHERE payment_hash = :payment_hash
    AND received_msat = :before_msat
    AND (state = 'funded' OR state = 'spent' AND :received_msat - captured_msat < price_msat)
    AND NOT EXISTS (
        SELECT 1
        FROM entries
        WHERE entries.payment_id = payments.payment_id
            AND entries.epoch = payments.epoch
            AND (entries.from_account = 'received' OR entries.to_account = 'credit')
    )
RETURNING payment_id, epoch, state;

-- name: restore_payment
-- A row that is there after all stays as it is.
INSERT INTO payments (
    payment_hash, state, price_msat, digest, resource, client, subnet, invoice, created_at_ms, expires_at_ms, receiver
) VALUES (
    :payment_hash,
    'open',
    :price_msat,
    :digest,
    :resource,
    :client,
    :subnet,
    :invoice,
    :created_at_ms,
    :expires_at_ms,
    :receiver
)
ON CONFLICT (payment_hash) DO NOTHING
RETURNING payment_id;

-- name: due_payments
-- Unpaid invoices in the order in which they end, from behind the last one that was looked at; but for those of some nodes.
SELECT
    payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms, expires_at_ms, settled_at_ms,
    received_msat, held_msat, captured_msat, attempts, epoch, lease_until_ms, receiver
FROM payments
WHERE state = 'open'
    AND expires_at_ms <= :until_ms
    AND (expires_at_ms > :after_ms OR (expires_at_ms = :after_ms AND payment_hash > :after_hash))
    AND receiver NOT IN (SELECT value FROM json_each(:others_json))
ORDER BY expires_at_ms, payment_hash
LIMIT :most;

-- name: oldest_unsettled
-- No guard: from here on a node is asked what it received, when it is asked for the first time.
SELECT MIN(created_at_ms)
FROM payments
WHERE state IN ('open', 'expired')
    AND receiver NOT IN (SELECT value FROM json_each(:others_json));

-- name: unclaimed
-- Settled so long ago, and its invoice ended so long ago that no proof of it is good any more; nobody holds it.
SELECT payment_id
FROM payments
WHERE state = 'funded'
    AND settled_at_ms <= :before_ms
    AND expires_at_ms <= :before_ms
    AND (lease_until_ms IS NULL OR lease_until_ms <= :now_ms)
ORDER BY settled_at_ms, payment_id
LIMIT :most;

-- name: give_up_unclaimed
-- Whoever comes for it in the last moment has come for it.
UPDATE payments
SET state = 'credit', held_msat = 0, lease_until_ms = NULL
WHERE payment_id = :payment_id
    AND state = 'funded'
    AND (lease_until_ms IS NULL OR lease_until_ms <= :now_ms)
RETURNING epoch, received_msat - captured_msat;

-- name: find_cursor
-- No guard.
SELECT cursor
FROM cursors
WHERE receiver = :receiver;

-- name: move_cursor
-- On from where it was read: whoever read from an older place, or beside somebody else, does not move it.
INSERT INTO cursors (receiver, cursor, read_at_ms)
VALUES (:receiver, :cursor, :now_ms)
ON CONFLICT (receiver) DO UPDATE
SET cursor = excluded.cursor, read_at_ms = excluded.read_at_ms
WHERE cursors.cursor = :read_from
RETURNING receiver;

-- name: keep_stray
-- Once; only more money than before is news.
INSERT INTO strays (payment_hash, receiver, received_msat, seen_at_ms)
VALUES (:payment_hash, :receiver, :received_msat, :now_ms)
ON CONFLICT (payment_hash) DO UPDATE
SET receiver = excluded.receiver, received_msat = excluded.received_msat, seen_at_ms = excluded.seen_at_ms
WHERE strays.received_msat < excluded.received_msat
RETURNING payment_hash;

-- name: strays
-- What has found its payment since is no stray.
SELECT
    strays.payment_hash, strays.receiver, strays.received_msat, strays.seen_at_ms, COALESCE(payments.resource, '')
FROM strays
LEFT JOIN payments ON payments.payment_hash = strays.payment_hash
WHERE payments.payment_hash IS NULL OR payments.received_msat < strays.received_msat
ORDER BY strays.seen_at_ms DESC, strays.payment_hash
LIMIT :most;

-- name: open_escrow
-- Its invoice was opened in this very transaction; saying it again changes nothing.
INSERT INTO escrows (payment_id, state, seed, lease_until_ms)
SELECT payment_id, 'waiting', :seed, :lease_until_ms
FROM payments
WHERE payment_hash = :payment_hash
ON CONFLICT (payment_id) DO NOTHING;

-- name: begin_escrow
-- Waiting, unpaid by the books, and for this request: of any number of callers at once exactly one finds it so.
UPDATE escrows
SET state = 'running', lease_until_ms = :lease_until_ms
WHERE state = 'waiting'
    AND payment_id = (
        SELECT payment_id
        FROM payments
        WHERE payment_hash = :payment_hash AND digest = :digest AND state IN ('open', 'expired')
    )
RETURNING state, seed;

-- name: find_escrow
-- No guard: a row is what it is.
SELECT escrows.state
FROM escrows
JOIN payments ON payments.payment_id = escrows.payment_id
WHERE payments.payment_hash = :payment_hash;

-- name: renew_escrow
-- Still running.
UPDATE escrows
SET lease_until_ms = :lease_until_ms
WHERE state = 'running' AND payment_id = (SELECT payment_id FROM payments WHERE payment_hash = :payment_hash)
RETURNING payment_id;

-- name: keep_escrowed
-- Still running: nobody has begun to give the money back.
UPDATE escrows
SET
    state = 'ready',
    status = :status,
    headers_json = :headers_json,
    body = :body,
    lease_until_ms = :lease_until_ms
WHERE state = 'running' AND payment_id = (SELECT payment_id FROM payments WHERE payment_hash = :payment_hash)
RETURNING payment_id;

-- name: return_escrow
-- Still running, so it has no answer.
UPDATE escrows
SET state = 'returning', lease_until_ms = :lease_until_ms
WHERE state = 'running' AND payment_id = (SELECT payment_id FROM payments WHERE payment_hash = :payment_hash)
RETURNING payment_id;

-- name: due_escrows
-- No guard: it only proposes; taking one has its own guard. What has its answer comes first, then what ran; most of the
-- rest was never paid.
SELECT payments.payment_hash, escrows.payment_id
FROM escrows
JOIN payments ON payments.payment_id = escrows.payment_id
WHERE escrows.lease_until_ms <= :now_ms
ORDER BY CASE escrows.state WHEN 'ready' THEN 0 WHEN 'waiting' THEN 2 ELSE 1 END, escrows.lease_until_ms
LIMIT :most;

-- name: take_escrow
-- Nobody has taken it since, and no call has extended its lease. One that has its answer is never given back.
UPDATE escrows
SET
    state = CASE WHEN state = 'ready' THEN 'ready' ELSE 'returning' END,
    lease_until_ms = :lease_until_ms
WHERE payment_id = :payment_id AND lease_until_ms <= :now_ms
RETURNING state, seed;

-- name: expire_escrowed
-- Only what is unpaid by the books; its invoice can't be paid any more.
UPDATE payments
SET state = 'expired'
WHERE payment_id = :payment_id AND state = 'open'
RETURNING payment_id;

-- name: end_escrow
-- The node has been told what to do, and has said that it is done; so only where there was something to be done.
DELETE FROM escrows
WHERE state IN ('ready', 'returning')
    AND payment_id = (SELECT payment_id FROM payments WHERE payment_hash = :payment_hash)
RETURNING payment_id, state, status, headers_json, body;

-- name: credits
-- Whoever is owed something: whole payments first, then what was left over; oldest first.
SELECT
    payment_hash, state, resource, received_msat - captured_msat - refunded_msat, settled_at_ms
FROM payments
WHERE state IN ('credit', 'spent', 'refunded') AND received_msat > captured_msat + refunded_msat
ORDER BY CASE WHEN state = 'credit' THEN 0 ELSE 1 END, settled_at_ms, payment_hash
LIMIT :most;

-- name: find_credit
-- No guard: of one payment, whatever its state.
SELECT
    payment_hash,
    state,
    resource,
    CASE WHEN state IN ('credit', 'spent', 'refunded') THEN received_msat - captured_msat - refunded_msat ELSE 0 END,
    COALESCE(settled_at_ms, created_at_ms)
FROM payments
WHERE payment_hash = :payment_hash;

-- name: newest_refund
-- No guard: the highest attempt is the newest.
SELECT
    payments.payment_hash,
    refunds.refund_hash,
    refunds.invoice,
    refunds.wallet,
    refunds.amount_msat,
    refunds.fee_limit_msat,
    refunds.attempt,
    refunds.state,
    refunds.fee_msat,
    refunds.reason,
    refunds.held_at_ms
FROM refunds
JOIN payments ON payments.payment_id = refunds.payment_id
WHERE payments.payment_hash = :payment_hash
ORDER BY refunds.attempt DESC
LIMIT 1;

-- name: hold_refund
-- Owed, and enough of it; the indexes allow one refund that is not released for each payment, and each invoice once.
INSERT INTO refunds (
    payment_id, attempt, refund_hash, invoice, wallet, amount_msat, fee_limit_msat, state, held_at_ms
)
SELECT
    payments.payment_id,
    COALESCE((SELECT MAX(refunds.attempt) FROM refunds WHERE refunds.payment_id = payments.payment_id), 0) + 1,
    :refund_hash,
    :invoice,
    :wallet,
    :amount_msat,
    :fee_limit_msat,
    'held',
    :now_ms
FROM payments
WHERE payments.payment_hash = :payment_hash
    AND payments.state = 'credit'
    AND payments.received_msat - payments.captured_msat >= :cost_msat
ON CONFLICT DO NOTHING
RETURNING attempt;

-- name: retry_refund
-- Nobody has touched it for so long; whoever comes second finds that somebody just did.
UPDATE refunds
SET held_at_ms = :now_ms
WHERE refund_hash = :refund_hash AND state = 'held' AND held_at_ms <= :before_ms
RETURNING attempt;

-- name: end_refund
-- Only a held refund ends, and only once.
UPDATE refunds
SET state = :state, fee_msat = :fee_msat, reason = :reason, ended_at_ms = :now_ms
WHERE refund_hash = :refund_hash AND state = 'held'
RETURNING payment_id, amount_msat + fee_msat;

-- name: refund_payment
-- No other guard: its refund was held, so it is still owed. Routing that cost more than there was is the seller's own
-- loss, not the payer's.
UPDATE payments
SET
    state = 'refunded',
    refunded_msat = CASE
        WHEN received_msat - captured_msat < :cost_msat THEN received_msat - captured_msat
        ELSE :cost_msat
    END
WHERE payment_id = :payment_id
RETURNING epoch, refunded_msat;

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
-- Only slots that are free again; more at a time than are taken at a time, so none is left for ever.
DELETE FROM free_calls
WHERE (bucket, slot) IN (
    SELECT bucket, slot
    FROM free_calls
    WHERE frees_at_ms <= :now_ms
    ORDER BY frees_at_ms
    LIMIT :most
);

-- name: free_total
-- No guard: it only proposes; counting a call has its own guard.
SELECT taken
FROM free_totals
WHERE bucket = :bucket AND day = :day;

-- name: count_free_call
-- One more on this day, as long as there are less than so many: of any number of callers at once, no more are counted.
INSERT INTO free_totals (bucket, day, taken)
VALUES (:bucket, :day, 1)
ON CONFLICT (bucket, day) DO UPDATE
SET taken = free_totals.taken + 1
WHERE free_totals.taken < :most
RETURNING taken;

-- name: uncount_free_call
-- One less, for a call that was counted in this very transaction and was not granted after all.
UPDATE free_totals
SET taken = taken - 1
WHERE bucket = :bucket AND day = :day AND taken > 0;

-- name: forget_free_totals
-- Only days that are over; so many at a time.
DELETE FROM free_totals
WHERE (bucket, day) IN (
    SELECT bucket, day
    FROM free_totals
    WHERE day < :day
    LIMIT :most
);

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
            AS credit_msat,
        SUM(CASE WHEN to_account = 'refunded' THEN amount_msat ELSE 0 END) AS refunded_msat
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
paid_back AS (
    SELECT payment_id, SUM(amount_msat + fee_msat) AS cost_msat
    FROM refunds
    WHERE state = 'captured'
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
        payments.refunded_msat,
        payments.received_msat - payments.captured_msat - payments.refunded_msat AS left_msat,
        COALESCE(booked.received_msat, 0) AS booked_received_msat,
        COALESCE(booked.held_msat, 0) AS booked_held_msat,
        COALESCE(booked.earned_msat, 0) AS booked_earned_msat,
        COALESCE(booked.credit_msat, 0) AS booked_credit_msat,
        COALESCE(booked.refunded_msat, 0) AS booked_refunded_msat,
        CASE
            WHEN COALESCE(paid_back.cost_msat, 0) < payments.received_msat - payments.captured_msat
                THEN COALESCE(paid_back.cost_msat, 0)
            ELSE payments.received_msat - payments.captured_msat
        END AS paid_back_msat,
        COALESCE(drawn.held_msat, 0) AS drawn_held_msat,
        COALESCE(drawn.captured_msat, 0) AS drawn_captured_msat,
        COALESCE(drawn.epoch, 0) AS drawn_epoch
    FROM payments
    LEFT JOIN booked ON booked.payment_id = payments.payment_id
    LEFT JOIN drawn ON drawn.payment_id = payments.payment_id
    LEFT JOIN paid_back ON paid_back.payment_id = payments.payment_id
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
    CASE WHEN state IN ('spent', 'credit', 'refunded') THEN left_msat ELSE 0 END,
    booked_credit_msat
FROM told
WHERE booked_credit_msat <> CASE WHEN state IN ('spent', 'credit', 'refunded') THEN left_msat ELSE 0 END
UNION ALL
SELECT payment_hash, 'refunded by its row, and by the entries', refunded_msat, booked_refunded_msat
FROM told
WHERE refunded_msat <> booked_refunded_msat
UNION ALL
SELECT payment_hash, 'refunded by its row, and by its refunds', refunded_msat, paid_back_msat
FROM told
WHERE refunded_msat <> paid_back_msat
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

-- name: newest_seal
-- No guard: that nobody has sealed since is the guard of keeping the next one.
SELECT seal, digest
FROM seals
ORDER BY seal DESC
LIMIT 1;

-- name: mark_entries
-- Not sealed yet, the oldest payments first. Of two who seal at once, the second one's marks are undone with its seal.
UPDATE entries
SET seal = :seal
WHERE (payment_id, epoch, from_account, to_account) IN (
    SELECT payment_id, epoch, from_account, to_account
    FROM entries
    WHERE seal IS NULL
    ORDER BY payment_id
    LIMIT :most
)
RETURNING payment_id;

-- name: keep_seal
-- Nobody else has made this seal meanwhile.
INSERT INTO seals (seal, entries, digest, mac, key_id, sealed_at_ms)
VALUES (:seal, :entries, :digest, :mac, :key_id, :now_ms)
ON CONFLICT (seal) DO NOTHING
RETURNING seal;

-- name: seals_after
-- No guard: for whoever verifies them, so many at a time.
SELECT seal, entries, digest, mac, key_id, sealed_at_ms
FROM seals
WHERE seal > :after
ORDER BY seal
LIMIT :most;

-- name: sealed_entries
-- No guard: what the seals from one to another say that they hold. Of a payment that is gone, its hash is nothing.
SELECT
    entries.seal,
    payments.payment_hash,
    entries.epoch,
    entries.from_account,
    entries.to_account,
    entries.amount_msat,
    entries.at_ms
FROM entries
LEFT JOIN payments ON payments.payment_id = entries.payment_id
WHERE entries.seal >= :first AND entries.seal <= :last;

-- name: entries_of_no_seal
-- No guard: marked with a seal that is not there.
SELECT entries.seal, COUNT(*)
FROM entries
LEFT JOIN seals ON seals.seal = entries.seal
WHERE entries.seal IS NOT NULL AND seals.seal IS NULL
GROUP BY entries.seal
ORDER BY entries.seal;

-- name: unsealed_entries
-- No guard: how many wait for the next seal, and since when.
SELECT COUNT(*), MIN(at_ms)
FROM entries
WHERE seal IS NULL;
