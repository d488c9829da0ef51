-- Unpaid invoices are counted by client and by the wide network around it, so that a flood from one of them is bounded.

-- The /48 around the client's prefix, as core.client_prefix tells it; none for IPv4, and for rows of an older farebox.
ALTER TABLE payments ADD COLUMN subnet TEXT;
CREATE INDEX payments_open_subnet ON payments (subnet, expires_at_ms) WHERE state = 'open';
