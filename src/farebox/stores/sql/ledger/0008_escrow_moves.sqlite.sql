-- The escrow's machine, kept by the database as the other two are. PostgreSQL says the same with a trigger function.

CREATE TRIGGER escrows_move AFTER UPDATE OF state ON escrows
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM escrow_moves WHERE from_state = OLD.state AND to_state = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'this move of an escrow is not in the table of moves');
END;
