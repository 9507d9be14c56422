//! What Slurm says about the tasks of a step.

/// Ports at which steps meet: below those that systems give to outgoing connections.
const FIRST_PORT: usize = 15_000;
const PORTS: usize = 15_000;

/// The port of a job, so that jobs on one node do not meet each other.
pub fn port(job: usize) -> usize {
    FIRST_PORT + job % PORTS
}

/// The first host of a list as Slurm writes it: `gpu07` of `gpu[07-09,12],login1`.
pub fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        let (name, more) = rest.split_at(end);
        host.push_str(name);
        let Some(more) = more.strip_prefix('[') else {
            break;
        };
        let (numbers, after) = more.split_once(']')?;
        host.push_str(numbers.split([',', '-']).next()?);
        rest = after;
    }
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list_is_found() {
        for (list, host) in [
            ("gpu07", "gpu07"),
            ("a,b", "a"),
            ("gpu[07-09,12],login1", "gpu07"),
            ("gpu[3,7]", "gpu3"),
            ("rack[0-1]node[2-3]-ib", "rack0node2-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(host), "{list}");
        }
        for damaged in ["", "gpu[07"] {
            assert_eq!(first_host(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn jobs_have_ports_of_their_own() {
        assert_ne!(port(1), port(2));
        assert!(port(usize::MAX) < 32_768);
    }
}
