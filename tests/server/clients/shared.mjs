// What the scripts of all clients begin with. They are node's standard input, from the folder that has the packages;
// its argument has the URLs of the servers, and what `said` is given is printed at the end as JSON.
const servers = JSON.parse(process.argv[2]);
const said = {};
process.on("exit", (code) => code || console.log(JSON.stringify(said)));

// The error that a promise ends with.
function raised(asking) {
  return asking.then(() => "nothing", (error) => error);
}

// Waits until a metric of the slow server has a value, while this process and its connections live.
async function measured(name, expected) {
  const line = new RegExp(`^vllm:${name}.* (\\S+)$`, "m");
  let count;
  for (const end = Date.now() + 60_000; Date.now() < end; ) {
    count = Number((await (await fetch(`${servers.slow}/metrics`)).text()).match(line)?.[1] ?? 0);
    if (count === expected) return count;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return `${count}, expected ${expected}`;
}

const RUNNING = "num_requests_running";
const CANCELLED = 'request_success_total\\{.*finished_reason="abort"';
