-- Shows a fresh proof with every request, one line of the file each, and stops when they run out:
-- wrk -t1 -s tokens.lua URL -- FILE
local requests = {}
local shown = 0

function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, { ["Authorization"] = line })
  end
end

function request()
  shown = shown + 1
  if shown >= #requests then
    wrk.thread:stop()
  end
  return requests[math.min(shown, #requests)]
end
