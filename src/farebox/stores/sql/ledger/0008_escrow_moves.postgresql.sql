-- The escrow's machine, kept by the database as the other two are. SQLite says the same with a trigger of its own.

CREATE FUNCTION escrows_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM escrow_moves WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'this move of an escrow is not in the table of moves';
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER escrows_move AFTER UPDATE OF state ON escrows
FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION escrows_move();
