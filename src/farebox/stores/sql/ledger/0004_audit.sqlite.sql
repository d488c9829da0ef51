-- An entry is never changed or deleted, but for the one time that it is sealed; a seal is never changed or deleted.
-- A refund is a draw on a credit, and moves as one. PostgreSQL says the same with trigger functions.

CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
WHEN NOT (
    OLD.seal IS NULL AND NEW.seal IS NOT NULL
    AND NEW.payment_id = OLD.payment_id AND NEW.epoch = OLD.epoch
    AND NEW.from_account = OLD.from_account AND NEW.to_account = OLD.to_account
    AND NEW.amount_msat = OLD.amount_msat AND NEW.at_ms = OLD.at_ms
)
BEGIN
    SELECT RAISE(ABORT, 'an entry is never changed');
END;

CREATE TRIGGER entries_kept BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'an entry is never deleted');
END;

CREATE TRIGGER seals_stay BEFORE UPDATE ON seals
BEGIN
    SELECT RAISE(ABORT, 'a seal is never changed');
END;

CREATE TRIGGER seals_kept BEFORE DELETE ON seals
BEGIN
    SELECT RAISE(ABORT, 'a seal is never deleted');
END;

CREATE TRIGGER refunds_move AFTER UPDATE OF state ON refunds
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM draw_moves WHERE from_state = OLD.state AND to_state = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'this move of a refund is not in the table of moves');
END;
