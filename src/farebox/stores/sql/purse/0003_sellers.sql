-- What is sold and by whom, what it is counted under, and what the seller did with the money. `labels` stand one after
-- the other with a space before and after each: ' host:api.example.com tag:research '.
ALTER TABLE purchases ADD COLUMN resource TEXT NOT NULL DEFAULT '';
ALTER TABLE purchases ADD COLUMN payee BLOB NOT NULL DEFAULT '';
ALTER TABLE purchases ADD COLUMN labels TEXT NOT NULL DEFAULT ' ';
ALTER TABLE purchases ADD COLUMN undelivered_at_ms BIGINT;
-- Whether another process than the one that began the payment has gone on with it.
ALTER TABLE purchases ADD COLUMN taken_over INTEGER NOT NULL DEFAULT 0;
ALTER TABLE purchases ADD COLUMN reusable_until_ms BIGINT;

-- What was bought before counts for its host as well: the origin without scheme, and without the port where it has one.
UPDATE purchases SET labels = lower(replace(replace(origin, 'https://', ''), 'http://', ''));
UPDATE purchases SET labels = ' host:' || CASE WHEN rtrim(labels, '0123456789') LIKE '%:'
    THEN rtrim(rtrim(labels, '0123456789'), ':') ELSE labels END || ' ';

CREATE INDEX purchases_undelivered ON purchases (undelivered_at_ms) WHERE undelivered_at_ms IS NOT NULL AND served = 0;
CREATE INDEX purchases_reusable ON purchases (origin, resource, reusable_until_ms) WHERE reusable_until_ms IS NOT NULL;

-- The last price of a resource that was seen and found good.
CREATE TABLE prices (
    origin TEXT NOT NULL,
    resource TEXT NOT NULL,
    price_msat BIGINT NOT NULL,
    seen_at_ms BIGINT NOT NULL,
    PRIMARY KEY (origin, resource)
);

-- Who was paid first at an origin.
CREATE TABLE payees (
    origin TEXT PRIMARY KEY,
    payee BLOB NOT NULL,
    seen_at_ms BIGINT NOT NULL
);

-- Calls that wait for a person's word, and what became of them.
CREATE TABLE approvals (
    number INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'used')),
    request_digest BLOB NOT NULL,
    origin TEXT NOT NULL,
    resource TEXT NOT NULL,
    url TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    payee BLOB NOT NULL,
    labels TEXT NOT NULL,
    asked_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);
CREATE INDEX approvals_of_request ON approvals (request_digest);

-- What others may spend, each with tokens under a key of its own.
CREATE TABLE purses (
    name TEXT PRIMARY KEY,
    limits TEXT NOT NULL,
    signing_key BLOB NOT NULL CHECK (length(signing_key) = 32),
    made_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT
);
