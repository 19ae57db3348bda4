-- For wrk: posts the bodies of a file, a line each, one after another; every thread begins elsewhere.
local bodies, at, threads = {}, 0, 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
  at = number * 7919
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  at = at + 1
  return wrk.format(nil, nil, nil, bodies[at % #bodies + 1])
end
