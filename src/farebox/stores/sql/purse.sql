-- Every statement of the buyer's purse. Each move is one conditional statement: its WHERE is the guard.

-- name: hold
-- Not what is held or paid already. And within every window: nothing is written when what a window counts and what is asked
-- come to more than its limit. What is held counts however old it is. `:windows` stands for a list of (since_ms, limit_msat,
-- label) rows, one for each window; a window per call counts nothing but this call, so its row begins after all time; one
-- without a label counts everything. And only from a seller that has not too many payments on their way already, nor took
-- too many of this account for nothing: `:account` is its label, or the beginning that the labels of all accounts have for
-- what is of none of them.
-- (Where one parameter stands in two places, a CAST tells PostgreSQL its type.)
WITH windows (since_ms, limit_msat, label) AS (VALUES :windows)
INSERT INTO purchases (
    payment_hash, attempt, request_digest, origin, url, resource, payee, labels, amount_msat, fee_limit_msat, challenge_json,
    invoice_expires_at_ms, reusable_until_ms, state, held_at_ms, counted_msat, counted_at_ms
)
SELECT
    CAST(:payment_hash AS BLOB), (SELECT COUNT(*) FROM purchases WHERE payment_hash = CAST(:payment_hash AS BLOB)),
    :request_digest, :origin, :url, :resource, :payee, :labels, :amount_msat, :fee_limit_msat, :challenge_json,
    :invoice_expires_at_ms, :reusable_until_ms, 'held', :now_ms, CAST(:asked_msat AS BIGINT), :now_ms
WHERE NOT EXISTS (
    SELECT 1
    FROM windows
    WHERE windows.limit_msat < CAST(:asked_msat AS BIGINT) + CASE WHEN windows.since_ms = :per_call THEN 0 ELSE
        (
            SELECT COALESCE(SUM(counted_msat), 0) FROM purchases
            WHERE counted_at_ms > windows.since_ms
            AND (windows.label = '' OR replace(purchases.labels, windows.label, '') <> purchases.labels)
        )
        + (
            SELECT COALESCE(SUM(counted_msat), 0) FROM purchases
            WHERE state = 'held' AND counted_at_ms <= windows.since_ms
            AND (windows.label = '' OR replace(purchases.labels, windows.label, '') <> purchases.labels)
        )
    END
)
AND NOT EXISTS (
    SELECT 1 FROM purchases WHERE payment_hash = CAST(:payment_hash AS BLOB) AND state <> 'released'
)
AND (:seller = '' OR :most_in_flight > (
    SELECT COUNT(*) FROM purchases
    WHERE state = 'held' AND replace(purchases.labels, :seller, '') <> purchases.labels
    AND (:seller_origin = '' OR purchases.origin = :seller_origin)
))
AND (:seller = '' OR :most_unserved > (
    SELECT COUNT(*) FROM purchases
    WHERE undelivered_at_ms > :unserved_since_ms AND replace(purchases.labels, :seller, '') <> purchases.labels
    AND (:seller_origin = '' OR purchases.origin = :seller_origin)
    AND (replace(purchases.labels, :account, '') = purchases.labels) = (:account = :no_account)
))
RETURNING payment_hash;

-- name: unserved
-- What this seller was paid for lately by this account, and did not serve; the newest first.
SELECT counted_msat, undelivered_at_ms FROM purchases
WHERE undelivered_at_ms > :unserved_since_ms AND replace(labels, :seller, '') <> labels
AND (:seller_origin = '' OR origin = :seller_origin)
AND (replace(labels, :account, '') = labels) = (:account = :no_account)
ORDER BY undelivered_at_ms DESC;

-- name: spent
-- What counts since an instant, and everything still held from before it; of one label, or of all.
SELECT
    (
        SELECT COALESCE(SUM(counted_msat), 0) FROM purchases
        WHERE counted_at_ms > :since_ms AND (:label = '' OR replace(labels, :label, '') <> labels)
    )
    + (
        SELECT COALESCE(SUM(counted_msat), 0) FROM purchases
        WHERE state = 'held' AND counted_at_ms <= :since_ms AND (:label = '' OR replace(labels, :label, '') <> labels)
    );

-- name: newest
-- The latest instant the purse has seen: its time never runs backwards.
SELECT COALESCE(MAX(counted_at_ms), 0)
FROM purchases;

-- name: latest
-- The latest instant that was written for anything that runs out.
SELECT COALESCE(MAX(at_ms), 0)
FROM (
    SELECT MAX(counted_at_ms) AS at_ms FROM purchases
    UNION ALL SELECT MAX(held_at_ms) FROM purchases
    UNION ALL SELECT MAX(undelivered_at_ms) FROM purchases
    UNION ALL SELECT MAX(asked_at_ms) FROM approvals
) AS times;

-- name: repair_purchases
-- No guard: what was written at a time that has not come yet is as if written now, and all else stays.
UPDATE purchases
SET
    counted_at_ms = CASE WHEN counted_at_ms > :now_ms THEN :now_ms ELSE counted_at_ms END,
    held_at_ms = CASE WHEN held_at_ms > :now_ms THEN :now_ms ELSE held_at_ms END,
    undelivered_at_ms = CASE WHEN undelivered_at_ms > :now_ms THEN :now_ms ELSE undelivered_at_ms END;

-- name: repair_approvals
-- Only questions and words that would hold yet: when they were given nobody knows, so each is asked for again.
UPDATE approvals
SET expires_at_ms = :now_ms
WHERE expires_at_ms > :now_ms;

-- name: find
-- No guard: the newest attempt, which is the only one that can be held or captured.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt, resource, payee, labels, undelivered_at_ms, reusable_until_ms
FROM purchases
WHERE payment_hash = :payment_hash
ORDER BY attempt DESC
LIMIT 1;

-- name: unfinished
-- Not known to have failed, and no paid answer arrived.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt, resource, payee, labels, undelivered_at_ms, reusable_until_ms
FROM purchases
WHERE served = 0 AND state <> 'released'
ORDER BY held_at_ms, payment_hash;

-- name: unfinished_of_request
-- As above, of one request.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt, resource, payee, labels, undelivered_at_ms, reusable_until_ms
FROM purchases
WHERE served = 0 AND state <> 'released' AND request_digest = :request_digest
ORDER BY held_at_ms, payment_hash;

-- name: history
-- No guard: newest first, of one label or of all.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt, resource, payee, labels, undelivered_at_ms, reusable_until_ms
FROM purchases
WHERE held_at_ms > :since_ms AND (:label = '' OR replace(labels, :label, '') <> labels)
ORDER BY held_at_ms DESC, payment_hash
LIMIT :most;

-- name: reusable
-- Served, so that its proof is no longer owed an answer, and not yet found to be used up.
SELECT
    payment_hash, request_digest, origin, url, amount_msat, fee_limit_msat, challenge_json, invoice_expires_at_ms, state,
    fee_msat, preimage, served, reason, held_at_ms, attempt, resource, payee, labels, undelivered_at_ms, reusable_until_ms
FROM purchases
WHERE origin = :origin AND resource = :resource AND reusable_until_ms > :now_ms AND served = 1 AND undelivered_at_ms IS NULL
ORDER BY held_at_ms DESC, payment_hash
LIMIT 3;

-- name: take_over
-- Only what was held long enough ago: of all who find it so, the first.
UPDATE purchases
SET held_at_ms = :now_ms, taken_over = 1
WHERE payment_hash = :payment_hash AND state = 'held' AND held_at_ms <= :before_ms
RETURNING payment_hash;

-- name: capture
-- Only what is held can turn out to be paid, or what was wrongly told to have failed; it counts with its true fee from now
-- on. Of several attempts only the newest can be held.
UPDATE purchases
SET
    state = 'captured',
    preimage = :preimage,
    reason = '',
    fee_msat = :fee_msat,
    counted_msat = amount_msat + :fee_msat,
    counted_at_ms = :now_ms
WHERE payment_hash = :payment_hash AND state <> 'captured'
AND attempt = (SELECT MAX(attempt) FROM purchases WHERE payment_hash = :payment_hash)
RETURNING payment_hash;

-- name: release
-- Only what is held can turn out not to be paid; it counts no more. What two may be paying is not free as long as its
-- invoice may be paid.
UPDATE purchases
SET state = 'released', reason = :reason, counted_msat = 0
WHERE payment_hash = :payment_hash AND state = 'held' AND (taken_over = 0 OR invoice_expires_at_ms < :over_ms)
RETURNING payment_hash;

-- name: mark_kept
-- Only what was paid and not served can be kept for its call.
UPDATE purchases
SET reason = :reason
WHERE payment_hash = :payment_hash AND state = 'captured' AND served = 0
RETURNING payment_hash;

-- name: mark_served
-- Only what was paid can be served; and then nothing is said against the seller.
UPDATE purchases
SET served = 1, undelivered_at_ms = NULL
WHERE payment_hash = :payment_hash AND state = 'captured'
RETURNING payment_hash;

-- name: mark_undelivered
-- Only what was paid and not served; the first time counts.
UPDATE purchases
SET undelivered_at_ms = COALESCE(undelivered_at_ms, :now_ms)
WHERE payment_hash = :payment_hash AND state = 'captured' AND served = 0
RETURNING payment_hash;

-- name: mark_lost
-- Only what was paid and not served. There is nothing more to ask for, as when it is served; it is known by its date.
UPDATE purchases
SET served = 1, undelivered_at_ms = COALESCE(undelivered_at_ms, :now_ms), reason = :reason
WHERE payment_hash = :payment_hash AND state = 'captured' AND served = 0
RETURNING payment_hash;

-- name: forget_proof
-- No guard: what is forgotten twice stays forgotten.
UPDATE purchases
SET reusable_until_ms = NULL
WHERE payment_hash = :payment_hash;

-- name: seen
-- The last price of a resource, and who was paid first at its origin.
SELECT
    (SELECT price_msat FROM prices WHERE origin = :origin AND resource = :resource),
    (SELECT seen_at_ms FROM prices WHERE origin = :origin AND resource = :resource),
    (SELECT payee FROM payees WHERE origin = :origin);

-- name: replace_oldest_price
-- Only where so many newer ones are remembered of this origin, by this account: the next one is remembered in its place,
-- so that whoever asks about ever new paths makes nothing grow, and has nothing forgotten that another account remembers.
-- (`:account` as in `hold`.)
UPDATE prices
SET resource = :resource, price_msat = :price_msat, seen_at_ms = :now_ms
WHERE origin = :origin AND resource = (
    SELECT resource FROM prices
    WHERE origin = :origin
    AND (replace(resource || ' ', :account, '') = resource || ' ') = (:account = :no_account)
    ORDER BY seen_at_ms DESC, resource
    LIMIT 1 OFFSET :newer
);

-- name: note_price
-- The newest price takes the place of the last, and one that stays is not written again.
INSERT INTO prices (origin, resource, price_msat, seen_at_ms)
VALUES (:origin, :resource, :price_msat, :now_ms)
ON CONFLICT (origin, resource) DO UPDATE SET price_msat = excluded.price_msat, seen_at_ms = excluded.seen_at_ms
WHERE prices.price_msat <> excluded.price_msat;

-- name: note_payee
-- The first payee stays.
INSERT INTO payees (origin, payee, seen_at_ms)
VALUES (:origin, :payee, :now_ms)
ON CONFLICT (origin) DO NOTHING;

-- name: change_payee
-- Only a person's word changes who is paid.
INSERT INTO payees (origin, payee, seen_at_ms)
VALUES (:origin, :payee, :now_ms)
ON CONFLICT (origin) DO UPDATE SET payee = excluded.payee, seen_at_ms = excluded.seen_at_ms;

-- name: use_approval
-- One word for one payment, of this request under these labels, at no more than what was said yes to, while it holds.
UPDATE approvals
SET state = 'used'
WHERE number = (
    SELECT number FROM approvals
    WHERE
        request_digest = :request_digest AND origin = :origin AND payee = :payee AND labels = :labels AND state = 'approved'
        AND amount_msat >= :amount_msat AND expires_at_ms > :now_ms
    ORDER BY number
    LIMIT 1
)
RETURNING number;

-- name: park
-- Unless it is parked already, or too many calls of this account wait for a word. Another payee is another question, but a
-- no holds whoever is paid. (`:account` as in `hold`.)
INSERT INTO approvals (
    number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms
)
SELECT
    (SELECT COALESCE(MAX(number), 0) + 1 FROM approvals), 'pending', CAST(:request_digest AS BLOB), :origin, :resource, :url,
    :amount_msat, CAST(:payee AS BLOB), :labels, :now_ms, :expires_at_ms
WHERE NOT EXISTS (
    SELECT 1 FROM approvals
    WHERE
        request_digest = CAST(:request_digest AS BLOB) AND origin = :origin AND labels = :labels AND state <> 'used'
        AND (payee = CAST(:payee AS BLOB) OR state = 'denied') AND amount_msat >= :amount_msat AND expires_at_ms > :now_ms
)
AND :most > (
    SELECT COUNT(*) FROM approvals
    WHERE state = 'pending' AND expires_at_ms > :now_ms
    AND (replace(labels, :account, '') = labels) = (:account = :no_account)
);

-- name: parked
-- The newest word, or question, about this request that holds.
SELECT number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms
FROM approvals
WHERE
    request_digest = :request_digest AND origin = :origin AND labels = :labels AND state <> 'used'
    AND (payee = :payee OR state = 'denied') AND amount_msat >= :amount_msat AND expires_at_ms > :now_ms
ORDER BY number DESC
LIMIT 1;

-- name: decide
-- Only what waits for a word, and not too long.
UPDATE approvals
SET state = :state, expires_at_ms = :now_ms + expires_at_ms - asked_at_ms
WHERE number = :number AND state = 'pending' AND expires_at_ms > :now_ms
RETURNING number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms;

-- name: approval
-- One of them.
SELECT number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms
FROM approvals
WHERE number = :number;

-- name: pending_approvals
-- What waits for a word.
SELECT number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms
FROM approvals
WHERE state = 'pending' AND expires_at_ms > :now_ms
ORDER BY number DESC;

-- name: approvals
-- No guard: the newest.
SELECT number, state, request_digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms
FROM approvals
ORDER BY number DESC
LIMIT 100;

-- name: add_purse
-- The key of one that is there stays, and one that was revoked stays so.
INSERT INTO purses (name, limits, signing_key, made_at_ms)
VALUES (:name, :limits, :signing_key, :now_ms)
ON CONFLICT (name) DO UPDATE SET limits = excluded.limits WHERE purses.revoked_at_ms IS NULL
RETURNING name, limits, signing_key, made_at_ms, revoked_at_ms;

-- name: purses
-- No guard: all of them.
SELECT name, limits, signing_key, made_at_ms, revoked_at_ms
FROM purses
ORDER BY name;

-- name: revoke_purse
-- The first time counts.
UPDATE purses
SET revoked_at_ms = COALESCE(revoked_at_ms, :now_ms)
WHERE name = :name
RETURNING name, limits, signing_key, made_at_ms, revoked_at_ms;
